"""The deployable directory: `optimum.json`, the files it vouches for, and how both are written and checked.

Takes neither numpy, torch, transformers nor a runtime, so that an artifact can be judged before anything of it runs.
"""

from optimum_core.artifact.manifest import (
    LIVE,
    MANIFEST,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    ModelInfo,
    decode,
    encode,
)
from optimum_core.artifact.store import load, save, write
from optimum_core.artifact.structure import Structure

__all__ = [
    "LIVE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "FileEntry",
    "Manifest",
    "ModelInfo",
    "Structure",
    "decode",
    "encode",
    "load",
    "save",
    "write",
]
