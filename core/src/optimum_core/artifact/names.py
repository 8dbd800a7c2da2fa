"""Allowed names for an artifact's files: those that denote the same file on every system, inside the directory."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from optimum_core.errors import ArtifactError

MANIFEST = "optimum.json"
#: The carried call, with arrays "in.<name>" and "out.<name>".
CHECK_FILE = "check.npz"

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_artifact(directory: Path) -> bool:
    """Whether a directory holds an artifact: its manifest is there."""
    return (directory / MANIFEST).is_file()


def same_file(name: str) -> str:
    """Return a key that is equal for names that some file system treats as one file (case, composed accents)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_names(names: Iterable[str], who: str) -> None:
    """Check every name by itself and against the others.

    Raises:
        ArtifactError: a name is absolute, leaves the directory, is not portable, is the manifest's own, or two names
            may be one file.
    """
    seen: dict[str, str] = {}
    for name in names:
        problem = _problem(name)
        if problem:
            raise ArtifactError(
                who,
                f"the file name {name!r} {problem}",
                "do not use this artifact unless you trust where it is from; name files relative to the directory",
            )
        other = seen.setdefault(same_file(name), name)
        if other is not name:
            raise ArtifactError(
                who,
                f"the file names {other!r} and {name!r} are one file on some systems",
                "save the artifact again with names that differ in more than case",
            )


def _problem(name: str) -> str:
    if _FORBIDDEN.search(name):
        return "holds a character that is not portable (a backslash, a drive's colon, a wildcard, a control character)"
    if name.startswith("/"):
        return "is absolute"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..'"
    if any(part.endswith((".", " ")) or _DEVICE.fullmatch(part) for part in parts):
        return "is not allowed on Windows"
    if same_file(name) == MANIFEST:
        return "is the manifest's own"
    return ""


def as_text(path: object) -> str:
    """Return a path that a caller passed as text.

    Raises:
        ArtifactError: it is no path, or one of bytes; or it is blank, or has a character that no path has.
    """
    if isinstance(path, str | os.PathLike) and isinstance(text := os.fspath(path), str):
        if not text.strip() or "\0" in text:
            why = "it holds a NUL character" if text.strip() else "the path is empty"
            raise ArtifactError(f"artifact {text!r}", why, "pass the path of a directory; '.' is the working directory")
        return text
    raise ArtifactError(
        f"artifact {path!r}", f"it is no path, but of type {type(path).__name__}", "pass text, or a pathlib.Path"
    )
