"""Artifacts on disk: writing and checking of a deployable directory with its manifest `optimum.json` and its files.

Needs neither numpy, torch, transformers nor a runtime, so that an artifact can be checked before any of it runs.
"""

from optimum_core.artifact.manifest import (
    LIVE,
    MANIFEST,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    ModelInfo,
    PartInfo,
    decode,
    encode,
)
from optimum_core.artifact.store import accept, load, save, write
from optimum_core.artifact.structure import Structure

__all__ = [
    "LIVE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "FileEntry",
    "Manifest",
    "ModelInfo",
    "PartInfo",
    "Structure",
    "accept",
    "decode",
    "encode",
    "load",
    "save",
    "write",
]
