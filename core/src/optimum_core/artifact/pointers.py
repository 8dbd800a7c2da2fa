"""Pointers of git-lfs: small texts that lie in place of files that were not fetched."""

from __future__ import annotations

from pathlib import Path

_BEGINNING = b"version https://git-lfs"
#: Greatest size of a pointer in bytes; one has about 130.
_SIZE = 1024


def is_pointer(path: Path) -> bool:
    """Whether a file is a git-lfs pointer to a file that was not fetched."""
    try:
        if path.stat().st_size > _SIZE:
            return False
        with path.open("rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False
