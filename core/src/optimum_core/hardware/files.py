"""Reading of small files that may be absent, unreadable or malformed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def read_text(path: Path) -> str | None:
    """Return the text of a file without surrounding blanks, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except (OSError, ValueError):  # ValueError: a path, itself read from a file, that no system accepts
        return None


def read_int(path: Path) -> int | None:
    """Return the whole number that a file holds, or None."""
    return to_int(read_text(path))


def to_int(text: str | None) -> int | None:
    """Return a whole number from decimal text, or None for anything else ("max", "[N/A]", nothing)."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def numbered(folder: Path, stem: str) -> Iterator[Path]:
    """Return the entries of a folder that are named `stem` and a number, in the order of their numbers."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return
    matches = [match for match in (re.fullmatch(rf"{stem}([0-9]{{1,9}})", name) for name in names) if match]
    for match in sorted(matches, key=lambda match: int(match[1])):
        yield folder / match[0]
