"""Integrity checks: the files in a directory must be those that its manifest lists."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from optimum_core.artifact.manifest import FileEntry
from optimum_core.errors import ArtifactError

_FETCH_AGAIN = "copy or download the artifact again, or save it anew from the model"
_HAD_ONE = (
    "leave tokenizer.save_pretrained(directory) out, as the artifact holds the one that the model came with; "
    "accelerate(…, processor=tokenizer) saves another"
)
#: Files that `save_pretrained` of a tokenizer or processor writes.
_OF_TOKENIZERS = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"}
    | {"vocab.json", "merges.txt", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"}
)


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


def check_file(directory: Path, name: str, entry: FileEntry, links_under: Path | None, who: str, *, deep: bool) -> None:
    """Compare one file with its entry: the size always, the bytes when `deep`.

    Raises:
        ArtifactError: as `locate`, or the file differs.
    """
    file = locate(directory, name, links_under, who)
    try:
        size = file.stat().st_size
        found = describe(file) if deep and size == entry.size else None
    except OSError as error:
        raise ArtifactError(who, f"the file {name!r} cannot be read: {error}", "check its permissions") from error
    remedy = f"{_FETCH_AGAIN}; or {_HAD_ONE}" if name in _OF_TOKENIZERS else _FETCH_AGAIN
    if size != entry.size:
        why = f"the file {name!r} differs in size: {size} bytes, the manifest says {entry.size}"
        raise ArtifactError(who, why, remedy)
    if found is not None and found != entry:
        why = f"the file {name!r} differs in sha256: {found.sha256}, the manifest says {entry.sha256}"
        raise ArtifactError(who, why, remedy)
