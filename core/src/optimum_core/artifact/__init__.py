"""Artifacts on disk: writing and checking of a deployable directory with its manifest `optimum.json` and its files.

`manifest` is the record of what an artifact is, with the `structure` of a call's answer and the settings of an
`embedding`; `serialization` turns it into JSON and back. `store` writes and reads the directory, `durable` writes whole
or not at all. `integrity` checks that the files are those listed, `names` that their names serve on every system,
`pointers` that they are no pointers of git-lfs; `meaning` compares small files by what they say.

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
