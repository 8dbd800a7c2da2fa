"""Writing of an artifact's directory, moving it into place, and reading it with all checks."""

from __future__ import annotations

import dataclasses
import glob
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from optimum_core.artifact.durable import aside, move_in, remove, sync_tree, write_file
from optimum_core.artifact.integrity import check_file, describe, further_files, locate
from optimum_core.artifact.manifest import FileEntry, Manifest, decode, encode
from optimum_core.artifact.meaning import is_beside, joined, meaning, relatives
from optimum_core.artifact.names import MANIFEST, check_names, same_file
from optimum_core.errors import ArtifactError

#: The remedy where files of an open model are missing or differ as it is saved.
GONE = (
    "the files were removed or changed after the model was opened, as by clearing the cache or by saving another model "
    "there: accelerate it again, or load it from another copy"
)
# A report of thousands of candidates is far smaller than this; a larger file is no manifest.
_MANIFEST_LIMIT = 64 << 20
#: Bytes up to which a file is read and checked in any case: it takes no time.
_SMALL = 4_000_000


def write(directory: Path, manifest: Manifest) -> Manifest:
    """Complete a directory that holds all files: hash every file under it and write `optimum.json`.

    Returns:
        The manifest as `load` will return it, with `files` filled in.

    Raises:
        ArtifactError: a file is no regular file or has a name that is not allowed, or the disk cannot be written.
        OptionError: an option holds a value that JSON cannot represent.
    """
    who = f"artifact {directory}"
    with _disk(who):
        return _complete(directory, manifest, who)


def save(manifest: Manifest, sources: Mapping[str, Path], destination: Path, *, overwrite: bool = False) -> Manifest:
    """Copy files into a new artifact directory and move it into place as a whole.

    An older artifact at `destination` is replaced; files beside it that its manifest does not list (a tokenizer, a
    README) are kept. All is written to the sibling `.<name>.<random>.tmp`; the former directory is renamed to
    `.<name>.<random>.old` before the new one gets its name, then deleted. If the process is killed between the two,
    `load` reports where the former one is. A `.tmp` that a killed process left may be deleted by hand.

    Args:
        manifest: `files` may be empty; where it has an entry, the copy must match it.
        sources: the files by their name in the artifact.
        overwrite: allow a directory with other files: those with our names are replaced, the others are kept.

    Returns:
        The manifest as `load` will return it.

    Raises:
        ArtifactError: other files are there, or a file cannot be copied or does not match `manifest.files`.
        OptionError: an option holds a value that JSON cannot represent.
    """
    destination = Path(os.path.realpath(destination))
    who = f"artifact {destination}"
    check_names(sources, who)
    with _disk(who):
        superseded = _superseded(destination, sources, overwrite, who)
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = aside(destination, "tmp")
        try:
            temporary.mkdir()
            complete = _fill(temporary, manifest, sources, who)
            if destination.exists():
                shutil.copytree(
                    destination, temporary, symlinks=True, ignore=_all_of(superseded, destination), dirs_exist_ok=True
                )
            sync_tree(temporary)
            move_in(temporary, destination)
        except BaseException:
            remove(temporary)
            raise
    return complete


def load(path: Path, *, verify_files: bool = True, allow_links_under: Path | None = None) -> Manifest:
    """Read an artifact's manifest and check everything that can be checked before any of it runs.

    In this order: the manifest exists and matches its digest; its schema is known; it decodes; its file names stay in
    the directory; every listed file exists with its size and sha256. A file beside the model, such as those of its
    tokenizer, may have other bytes if it says the same. Files that are not listed are not opened, except those that
    would change what the listed ones say.

    Args:
        verify_files: False skips the sha256 check of files above 4 MB, which reads them entirely.
        allow_links_under: links may also lead here (a hub snapshot links to the blobs of its repository's folder).

    Returns:
        The manifest, with the entries of the files as they are, and of those that were added to a tokenizer.

    Raises:
        ArtifactError: a check fails; the message names the file and the difference.
    """
    who = f"artifact {path}"
    _check_place(path, who)
    manifest = _read(path, allow_links_under, who)
    model_files, files = frozenset(manifest.part_files), {}
    for name, entry in manifest.files.items():
        may_say = manifest.meanings.get(name, ()) if is_beside(name, model_files) else None
        file = locate(path, name, allow_links_under, who)
        files[name] = check_file(file, name, entry, who, deep=verify_files or entry.size <= _SMALL, meanings=may_say)
    with _disk(who):
        files |= further_files(path, manifest.files, manifest.meanings, who)
    return dataclasses.replace(manifest, files=files) if files != manifest.files else manifest


def accept(
    path: Path, *, check: Callable[[Manifest, tuple[str, ...]], None] = lambda manifest, changed: None
) -> tuple[str, ...]:
    """State in the manifest that the files beside the model are as they are meant: a tokenizer, processor or settings
    that were changed, removed or added since. The model's own files are checked as by `load`.

    Args:
        check: is given the manifest and the names of files that differ, and raises where they cannot be accepted.

    Returns:
        The names of the files that differed.

    Raises:
        ArtifactError: a file of the model itself differs, or the disk cannot be written.
    """
    who = f"artifact {path}"
    _check_place(path, who)
    manifest = _read(path, None, who)
    model_files, files = frozenset(manifest.part_files), {}
    for name, entry in manifest.files.items():
        if not is_beside(name, model_files):
            files[name] = check_file(locate(path, name, None, who), name, entry, who, deep=True)
        elif (path / name).is_file():
            files[name] = describe(locate(path, name, None, who))
    for name in relatives(manifest.files, path):
        if (path / name).is_file():
            files[name] = describe(locate(path, name, None, who))
    names = {*files, *manifest.files}
    changed = tuple(sorted(name for name in names if files.get(name) != manifest.files.get(name)))
    check(manifest, changed)
    if changed:
        kept = {name: found for name, found in manifest.meanings.items() if name not in changed}
        with _disk(who):
            found = dataclasses.replace(manifest, files=files, meanings=kept)
            write_file(path / MANIFEST, encode(_with_meanings(path, found)))
    return changed


def _read(path: Path, links_under: Path | None, who: str) -> Manifest:
    with _disk(who):
        file = locate(path, MANIFEST, links_under, who)
        if file.stat().st_size > _MANIFEST_LIMIT:
            raise ArtifactError(who, f"{MANIFEST} is larger than {_MANIFEST_LIMIT} bytes", "use another artifact")
        return decode(file.read_bytes(), who)


@contextmanager
def _disk(who: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "check free space, permissions and whether another program holds the files, or choose another place"
        raise ArtifactError(who, f"the system refused: {error}", remedy) from error


def _files_under(directory: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(directory):
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for name in files + linked:
            yield Path(folder, name).relative_to(directory).as_posix()


def _complete(directory: Path, manifest: Manifest, who: str) -> Manifest:
    names = sorted(name for name in _files_under(directory) if name != MANIFEST)
    files = {name: describe(locate(directory, name, None, who)) for name in names}
    raw = encode(_with_meanings(directory, dataclasses.replace(manifest, files=files), former=manifest.files))
    complete = decode(raw, who)
    write_file(directory / MANIFEST, raw)
    return complete


def _with_meanings(directory: Path, manifest: Manifest, *, former: Mapping[str, FileEntry] | None = None) -> Manifest:
    """Return the manifest with what its files beside the model say.

    Args:
        former: entries of files whose meanings the manifest has already.
    """
    model_files, known = frozenset(manifest.part_files), manifest.meanings
    own = {
        name: (meaning(directory / name),)
        for name, entry in manifest.files.items()
        if is_beside(name, model_files) and not (name in known and (former or {}).get(name) == entry)
    }
    return dataclasses.replace(manifest, meanings=joined(own, known))


def _fill(temporary: Path, manifest: Manifest, sources: Mapping[str, Path], who: str) -> Manifest:
    for name, source in sources.items():
        target = temporary / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise ArtifactError(who, f"it is saved from {source}, which is not here", GONE)
        # A copy, never a hard link: an edit of the artifact must not change the cache it came from.
        shutil.copyfile(source, target)
    complete = _complete(temporary, manifest, who)
    for name, expected in manifest.files.items():
        if complete.files.get(name) != expected:
            why = f"it is saved from {sources.get(name, name)}, which was changed since it was verified"
            raise ArtifactError(who, why, GONE)
    return complete


def _superseded(destination: Path, names: Iterable[str], overwrite: bool, who: str) -> frozenset[str]:
    """Return the files of the destination to replace, by `same_file`; raise `ArtifactError` where they are not ours."""
    ours = frozenset(map(same_file, (*names, MANIFEST)))
    if not destination.exists():
        return ours
    if not destination.is_dir():
        raise ArtifactError(who, "there is a file of this name", "choose another place, or remove the file")
    if os.path.ismount(destination) or destination == Path.cwd():
        why = "a mounted volume or the current directory cannot be replaced as a whole"
        raise ArtifactError(who, why, f"save to a folder in it, such as {destination / 'model'}")
    present = frozenset(map(same_file, _files_under(destination)))
    listed = _listed(destination)
    if overwrite or not any(destination.iterdir()):
        return ours | (listed or frozenset())
    if listed is None:
        why = "the directory is not empty and holds no artifact that can be read"
        raise ArtifactError(who, why, "choose another place, or pass overwrite=True, which keeps unrelated files")
    taken = sorted((present & ours) - listed - {MANIFEST})
    if taken:
        why = f"files of other origin have the names of ours: {', '.join(taken)}"
        raise ArtifactError(who, why, "choose another place, or pass overwrite=True to replace them")
    return ours | listed


def _listed(directory: Path) -> frozenset[str] | None:
    """Return the files that an older artifact's manifest lists, or None where there is no readable manifest."""
    try:
        raw = locate(directory, MANIFEST, None, "").read_bytes()
        return frozenset(map(same_file, decode(raw, "").files))
    except ArtifactError:
        return None


def _all_of(superseded: frozenset[str], root: Path) -> Callable[[str, list[str]], list[str]]:
    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if same_file(Path(folder, name).relative_to(root).as_posix()) in superseded]

    return ignore


def _check_place(path: Path, who: str) -> None:
    if os.path.lexists(path / MANIFEST):
        return
    if not path.exists():
        former = sorted(path.parent.glob(f".{glob.escape(path.name)}.*.old"), key=lambda old: old.stat().st_mtime_ns)
        if former:
            why = f"a save was interrupted; the artifact that was there is whole in {former[-1]}"
            raise ArtifactError(who, why, f"rename that directory to {path.name!r}, or save again")
        raise ArtifactError(who, "there is no such directory", "check the path")
    if not path.is_dir():
        raise ArtifactError(who, "this is a file", f"give the directory that holds {MANIFEST}")
    why = f"there is no {MANIFEST} in it"
    raise ArtifactError(who, why, "give a directory that save_pretrained of an accelerated model wrote")
