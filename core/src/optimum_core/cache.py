"""The cache on disk: directories and small records, addressed by a kind and a key made from what they were built from.

    <root>/v2/<kind>/<key>/entry.json   description and time; its own time stamp is the last use
    <root>/v2/<kind>/<key>/data/        the files built
    <root>/v2/<kind>/.<key>.*           being built, or being deleted
    <root>/locks/<kind>/<key>.lock      held by the process that builds; the system frees it when that process dies
    <root>/locks/<kind>/<key>.<pid>.use held by a process that uses the entry's files, until it ends

An entry is built under a temporary name and renamed into place when it is on the disk, so every visible entry is
complete. Leftovers of a killed process are removed by the next one that holds the lock of that key. What exceeds the
size limit is removed after a build, the least recently used first; never the entry just built, nor one in use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from optimum_core.artifact.durable import aside, move_in, remove, sync_tree
from optimum_core.artifact.serialization import canonical, canonical_json, from_plain, to_plain
from optimum_core.errors import ArtifactError, OptionError

T = TypeVar("T")

CACHE_DIR_VARIABLE = "OPTIMUM_CACHE_DIR"
CACHE_SIZE_VARIABLE = "OPTIMUM_CACHE_SIZE"
DEFAULT_SIZE = "50GB"
_LAYOUT = "v2"
_ENTRY = "entry.json"
_DATA = "data"
_RECORD = "record.json"
# Lower case, since some file systems ignore case; no dot, since a dot ends the key in the names of leftovers.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE)
#: Locks of the entries that this process uses, by path.
_held: dict[Path, FileLock] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """A complete entry; `size` in bytes, times in UTC."""

    kind: str
    key: str
    description: str
    path: Path
    size: int
    created: datetime
    last_used: datetime


def content_key(parts: Mapping[str, Any]) -> str:
    """Return the sha256 of the parts' canonical JSON, in lower-case hex.

    The order of mappings does not matter; 1, 1.0 and True are different values, a tuple and a list are equal.

    Raises:
        OptionError: a part holds a value that JSON cannot represent.

    >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(parts, "cache key")).hexdigest()


class Cache:
    """A store of directories and records that several processes share.

    Every method raises `ArtifactError` where the system refuses, and `OptionError` for a kind or key that is not made
    of lower-case letters, digits, "-" and "_". Creating a `Cache` does not touch the disk.

    Args:
        root: its directory; by default `OPTIMUM_CACHE_DIR`, else the system's cache directory of the user.
        limit: its size in bytes that a build may not leave exceeded; by default `OPTIMUM_CACHE_SIZE`, else 50 GB.
    """

    def __init__(self, root: Path | None = None, limit: int | None = None) -> None:
        self.root = (_default_root() if root is None else root).absolute()
        self.limit = _parse_size(os.environ.get(CACHE_SIZE_VARIABLE) or DEFAULT_SIZE) if limit is None else limit

    def entry(self, kind: str, key: str) -> Path | None:
        """Return the directory of a complete entry, or None. Counts as a use."""
        place = self._place(kind, key)
        if not _complete(place):
            return None
        with suppress(OSError):  # a read-only cache still works
            os.utime(place / _ENTRY)
        return place / _DATA

    def build(
        self,
        kind: str,
        key: str,
        make: Callable[[Path], None],
        *,
        describe: str = "",
        on_wait: Callable[[], None] | None = None,
    ) -> Path:
        """Return the directory of an entry, building it where it is missing; a key is never built twice at once.

        Args:
            make: fills the empty directory that it is given. Its exceptions are passed on, and nothing is kept.
            describe: description of the entry in a list.
            on_wait: called once where another process or thread holds the lock.
        """
        found = self.entry(kind, key)
        if found is not None:
            return found
        with self.lock(kind, key, on_wait=on_wait):
            found = self.entry(kind, key)
            if found is not None:
                return found
            made = self._make(self._place(kind, key), make, describe)
            self._trim(spared=made.parent)
            return made

    def hold(self, directory: Path) -> None:
        """Keep an entry, by the directory that `entry` or `build` returned, from being removed until this process
        ends."""
        kind, key = directory.parent.parent.name, directory.parent.name
        path = self.root / "locks" / kind / f"{key}.{os.getpid()}.use"
        if path not in _held:
            with suppress(OSError, ArtifactError), self.lock(kind, key):  # a read-only cache is not trimmed either
                handle = FileLock(path)
                handle.acquire(blocking=False)
                _held[path] = handle

    @contextmanager
    def lock(self, kind: str, key: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep every other process and thread from building or removing this entry. Reentrant within a thread."""
        handle = self._handle(kind, key)
        with self._explained():
            taken = _try_lock(handle)
        if not taken:
            if on_wait is not None:
                on_wait()
            with self._explained():
                handle.acquire()
        try:
            yield
        finally:
            handle.release()

    def discard(self, kind: str, key: str) -> None:
        """Remove an entry, such as a corrupt one; do nothing where there is none."""
        place = self._place(kind, key)
        if place.exists():
            with self.lock(kind, key), self._explained():
                _take_away(place)

    def write_record(self, kind: str, key: str, value: Any, *, describe: str = "") -> None:
        """Store a small value: JSON, or dataclasses of this package. Replaces an earlier value of this key.

        Raises:
            OptionError: the value holds something that JSON cannot represent.
        """
        tree = to_plain(value, "cache record")
        content = canonical_json({"sha256": _digest(tree), "value": tree})
        with self.lock(kind, key):
            self._make(self._place(kind, key), lambda data: _write(data / _RECORD, content), describe)

    def read_record(self, kind: str, key: str, value_type: type[T]) -> T | None:
        """Return the value stored; None where there is none, it was altered, or it is no longer a `value_type`."""
        data = self.entry(kind, key)
        if data is None:
            return None
        try:
            tree = json.loads((data / _RECORD).read_bytes())
            return from_plain(tree["value"], value_type) if tree["sha256"] == _digest(tree["value"]) else None
        except (msgspec.ValidationError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def list(self) -> tuple[CacheEntry, ...]:
        """Return every complete entry, sorted by kind and key."""
        with self._explained():
            places = [place for kind, key in self._names() if _complete(place := self._place(kind, key))]
            found = [_describe(place) for place in places]
        return tuple(entry for entry in found if entry is not None)

    def clear(self, older_than: timedelta | None = None) -> int:
        """Remove entries and leftovers of killed processes, except those that a living process has locked or holds.

        Args:
            older_than: keep entries that were used within this time.

        Returns:
            Bytes freed.
        """
        return sum(self._clear_one(kind, key, older_than) for kind, key in self._names())

    def _clear_one(self, kind: str, key: str, older_than: timedelta | None) -> int:
        handle = self._handle(kind, key)
        with self._explained():
            if handle.is_locked or not _try_lock(handle):
                return 0
            try:
                place = self._place(kind, key)
                if _is_held(Path(handle.lock_file)):
                    return 0
                before = _tree_size(place) + sum(map(_tree_size, _leftovers(place)))
                _sweep(place)
                found = _describe(place) if older_than is not None and _complete(place) else None
                if found is None or older_than is None or datetime.now(UTC) - found.last_used >= older_than:
                    _take_away(place)
                return before - _tree_size(place) - sum(map(_tree_size, _leftovers(place)))
            finally:
                handle.release()

    def _trim(self, spared: Path) -> None:
        """Remove the least recently used entries until the limit is kept."""
        entries = sorted(self.list(), key=lambda entry: entry.last_used)
        excess = sum(entry.size for entry in entries) - self.limit
        for entry in entries:
            if excess <= 0:
                return
            if entry.path.parent != spared:
                # An entry that was used since it was listed is kept.
                excess -= self._clear_one(entry.kind, entry.key, datetime.now(UTC) - entry.last_used)

    def _make(self, place: Path, make: Callable[[Path], None], description: str) -> Path:
        """Build under a temporary name and move into place; the caller holds the lock."""
        temporary = aside(place, "tmp")
        with self._explained():
            _sweep(place)
            (temporary / _DATA).mkdir(parents=True)
        try:
            make(temporary / _DATA)
            with self._explained():
                about = {"description": description, "created": datetime.now(UTC).isoformat()}
                _write(temporary / _ENTRY, json.dumps(about).encode())
                sync_tree(temporary)
                move_in(temporary, place)
        except BaseException:
            remove(temporary)
            raise
        return place / _DATA

    def _place(self, kind: str, key: str) -> Path:
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                why = f"{name!r} is no name for a kind or key"
                raise OptionError("cache", why, "use up to 100 lower-case letters, digits, '-' and '_'")
        return self.root / _LAYOUT / kind / key

    def _handle(self, kind: str, key: str) -> FileLock:
        place = self._place(kind, key)
        # A single object per path and process makes the lock reentrant in a thread; threads still exclude each other.
        return FileLock(self.root / "locks" / kind / f"{place.name}.lock", is_singleton=True)

    def _names(self) -> tuple[tuple[str, str], ...]:
        """Return kind and key of everything on disk, leftovers included."""
        folders = [folder for folder in _children(self.root / _LAYOUT) if _NAME.fullmatch(folder.name)]
        found = {(folder.name, _key_of(item.name)) for folder in folders for item in _children(folder)}
        return tuple(sorted((kind, key) for kind, key in found if _NAME.fullmatch(key)))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as error:
            remedy = f"check its permissions and free space, or set {CACHE_DIR_VARIABLE} to a directory on a local disk"
            raise ArtifactError(f"cache {self.root}", f"the system refused: {error}", remedy) from error


def _default_root() -> Path:
    stated = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(stated).expanduser() if stated else platformdirs.user_cache_path("optimum-core", appauthor=False)


def _parse_size(text: str) -> int:
    """Return bytes from a number with B, KB, MB, GB or TB, or KiB to TiB.

    Raises:
        OptionError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(CACHE_SIZE_VARIABLE, f"{text!r} is no size", "write a number and a unit, such as 20GB")
    unit = "kmgt".index(match[2].lower()) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** unit)


def _is_held(lock: Path) -> bool:
    """Whether a living process holds the entry with this lock. Marks of dead ones are removed."""
    for path in lock.parent.glob(f"{lock.stem}.*.use"):
        handle = FileLock(path)
        if not _try_lock(handle):
            return True
        path.unlink(missing_ok=True)
        handle.release()
    return False


def _try_lock(handle: FileLock) -> bool:
    Path(handle.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        handle.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _complete(place: Path) -> bool:
    return (place / _ENTRY).is_file() and (place / _DATA).is_dir()


def _describe(place: Path) -> CacheEntry | None:
    """Return the facts of an entry; None where it vanished or its `entry.json` was altered."""
    try:
        about = json.loads((place / _ENTRY).read_bytes())
        return CacheEntry(
            kind=place.parent.name,
            key=place.name,
            description=str(about["description"]),
            path=place / _DATA,
            size=_tree_size(place / _DATA),
            created=datetime.fromisoformat(about["created"]),
            last_used=datetime.fromtimestamp((place / _ENTRY).stat().st_mtime, UTC),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _key_of(name: str) -> str:
    """Return the key of an entry's folder, or of a leftover's (`.<key>.<random>.<purpose>`)."""
    return name.split(".")[1] if name.startswith(".") else name


def _leftovers(place: Path) -> list[Path]:
    return [item for item in _children(place.parent) if item.name.startswith(f".{place.name}.")]


def _sweep(place: Path) -> None:
    for leftover in _leftovers(place):
        remove(leftover)


def _take_away(place: Path) -> None:
    """Hide an entry in one atomic step, then delete it; the caller holds the lock."""
    if place.exists():
        hidden = aside(place, "old")
        place.rename(hidden)
        remove(hidden)


def _tree_size(root: Path) -> int:
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(OSError):  # deleted meanwhile
                total += Path(folder, name).lstat().st_size
    return total


def _digest(tree: Any) -> str:
    return hashlib.sha256(canonical_json(tree)).hexdigest()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
