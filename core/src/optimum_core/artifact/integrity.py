"""Integrity checks: the files in a directory must be those that its manifest lists."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from optimum_core.artifact.manifest import FileEntry
from optimum_core.artifact.meaning import Meanings, meaning, relatives, unix_text
from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import ArtifactError

_FETCH_AGAIN = "copy or download the artifact again, or save it anew from the model"
_PULL = "run `git lfs pull` in its directory, or download the artifact again"
_MEANT = "if it was changed on purpose, `optimum-core accept DIRECTORY` states that"


def locate(directory: Path, name: str, links_under: Path | None, who: str) -> Path:
    """Return the path of the regular file `name` of an artifact, with links resolved.

    Args:
        links_under: a folder to which links may lead besides the directory itself (a repository's in the hub cache).

    Raises:
        ArtifactError: it is missing, not a regular file, or a link that leads elsewhere.
    """
    try:
        real = Path(os.path.realpath(directory / name, strict=True))
        mode = real.stat().st_mode
    except FileNotFoundError:
        raise ArtifactError(who, f"the file {name!r} is missing", _FETCH_AGAIN) from None
    except OSError as error:
        raise ArtifactError(who, f"the file {name!r} cannot be reached: {error}", _FETCH_AGAIN) from error
    roots = [Path(os.path.realpath(root)) for root in (directory, links_under) if root is not None]
    if not any(real.is_relative_to(root) for root in roots):
        why = f"the file {name!r} is a link that leads out of the directory, to {real}"
        raise ArtifactError(who, why, "replace the link by the file, if you trust it")
    if not stat.S_ISREG(mode):
        raise ArtifactError(who, f"{name!r} is not a regular file", _FETCH_AGAIN)
    return real


def describe(file: Path) -> FileEntry:
    """Return size and sha256 of a file, read in blocks."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256", _bufsize=1 << 20)
        return FileEntry(sha256=digest.hexdigest(), size=stream.tell())


def check_file(
    file: Path, name: str, entry: FileEntry, who: str, *, deep: bool, meanings: Collection[str] | None = None
) -> FileEntry:
    """Compare one file with its entry: the size always, the bytes when `deep`. A text may have other line endings.

    Args:
        file: where `locate` found it.
        meanings: of a file beside the model: digests of what it may say, whatever its bytes; None: a file of the model.

    Returns:
        The entry of the file as it is.

    Raises:
        ArtifactError: the file differs.
    """
    try:
        size = file.stat().st_size
        if size != entry.size:
            differs = f"size: {size} bytes, the manifest says {entry.size}"
        elif not deep or (found := describe(file)) == entry:
            return entry
        else:
            differs = f"sha256: {found.sha256}, the manifest says {entry.sha256}"
        if _says_the_same(file, name, entry, meanings or ()):
            return describe(file)
    except OSError as error:
        raise ArtifactError(who, f"the file {name!r} cannot be read: {error}", "check its permissions") from error
    if is_pointer(file):
        raise ArtifactError(who, f"the file {name!r} is a pointer of git-lfs: its contents were not fetched", _PULL)
    remedy = _FETCH_AGAIN if meanings is None else f"{_FETCH_AGAIN}; {_MEANT}"
    raise ArtifactError(who, f"the file {name!r} differs in {differs}", remedy)


def further_files(directory: Path, names: Iterable[str], meanings: Meanings, who: str) -> dict[str, FileEntry]:
    """Return the files that are not listed, but belong to those that are: the model's own tokenizer, processor or
    generation settings, saved once more.

    Args:
        names: the files that are listed.

    Raises:
        ArtifactError: one says something else, and would change the meaning of the listed ones.
    """
    found: dict[str, FileEntry] = {}
    for name in relatives(names, directory):
        if not (directory / name).is_file():
            continue
        if meaning(directory / name) not in meanings.get(name, ()):
            why = f"the file {name!r} was put beside those that are listed, and says something else"
            raise ArtifactError(who, why, f"remove it; {_MEANT}")
        found[name] = describe(directory / name)
    return found


def _says_the_same(file: Path, name: str, entry: FileEntry, meanings: Collection[str]) -> bool:
    """Whether a file that differs from its entry does so in line endings alone, or has one of the meanings."""
    raw = unix_text(file, name)
    if raw is not None and FileEntry(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw)) == entry:
        return True
    return bool(meanings) and meaning(file) in meanings
