"""File names of an engine, and the note beside it: the software and GPU that it was built with and for, and the sha256
of its bytes.

An engine is a program: deserializing it runs code. So its bytes are compared with the note first, and the note with the
manifest, where core wrote one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from optimum_core.errors import ArtifactError

MODEL = "model.engine"
NOTE = "model.engine.json"
_SCHEMA = 1
_REMEDY = "build the engine again, or copy the artifact anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Origin and compatibility of an engine.

    Attributes:
        module: the package that built it, `version` its version: no other reads it.
        platform: operating system and processor that it was built on.
        capability: the compute capability that it was built for ("8.9").
        ahead: whether it was built without such a GPU.
        portable: whether it may be opened on another operating system.
        profiles: per profile and input, the shortest, likeliest and longest shape.
        sha256: the hash of the engine's bytes, `size` their number.
    """

    module: str
    version: str
    platform: str
    capability: str
    ahead: bool
    portable: bool
    precision: str
    profiles: tuple[Mapping[str, Any], ...]
    sha256: str
    size: int

    @property
    def compute_capability(self) -> tuple[int, int]:
        major, _, minor = self.capability.partition(".")
        return int(major), int(minor)


def digest(content: bytes | memoryview) -> str:
    """Return the sha256 of an engine's bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_note(folder: Path, note: Note) -> None:
    """Write the note beside the engine."""
    content = {"schema": _SCHEMA, **asdict(note)}
    (folder / NOTE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_note(folder: Path, who: str) -> Note:
    """Read the note beside an engine.

    Raises:
        ArtifactError: it is missing, or not in this version's form.
    """
    try:
        content = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if content.pop("schema") != _SCHEMA:
            raise ValueError("it is of another version of optimum-trt")
        note = Note(**{**content, "profiles": tuple(content["profiles"])})
        if not all(isinstance(getattr(note, item.name), _TYPES.get(str(item.type), object)) for item in fields(Note)):
            raise ValueError("a field has the wrong type")
        _ = note.compute_capability
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(who, f"{NOTE} cannot be read: {error}", _REMEDY) from error
    return note


def read_engine(path: Path, note: Note, who: str) -> bytes:
    """Return the bytes of an engine after checking them against the note.

    Raises:
        ArtifactError: the file is missing, cut short, or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(who, f"the engine cannot be read: {error}", _REMEDY) from error
    if len(content) != note.size:
        raise ArtifactError(who, f"the engine has {len(content)} bytes, and had {note.size} when it was built", _REMEDY)
    found = digest(content)
    if found != note.sha256:
        why = f"the engine is not the one that was built: sha256 {found[:12]}…, expected {note.sha256[:12]}…"
        raise ArtifactError(who, why, _REMEDY)
    return content


_TYPES = {"str": str, "bool": bool, "int": int}
