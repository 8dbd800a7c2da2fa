"""Weights of the modules of a sentence encoder, read from their files without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from optimum_core.artifact.embedding import MODULES
from optimum_core.errors import SourceError
from optimum_core.models.sources.files import refuse_pointers
from optimum_core.packages import present
from optimum_core.types.arrays import NDArray

#: The files of a module's weights: the first that exists counts; the second is a pickle, which torch reads.
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
_AGAIN = "fetch or save it again"
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_HEADER = 8  # bytes of its length


def read_stored(place: Path, who: str) -> dict[str, NDArray]:
    """Return the weights in the folder of a module in fp32, by name; none where it holds no file of weights.

    Raises:
        SourceError: a file is damaged, or is a pickle and torch is not installed.
    """
    refuse_pointers(place, who)
    try:
        if (place / SAFETENSORS).is_file():
            return _read_safetensors((place / SAFETENSORS).read_bytes())
        if (place / PICKLE).is_file() and present("torch"):
            import torch

            found = torch.load(place / PICKLE, map_location="cpu", weights_only=True)
            return {name: tensor.float().numpy() for name, tensor in found.items()}
    except Exception as error:  # damaged files raise errors of many types
        raise SourceError(who, f"the weights in {place} cannot be read: {error!r}", _AGAIN) from error
    if (place / PICKLE).is_file():
        why = f"its weights in {place.name} are a pickle ({PICKLE}), which torch reads"
        raise SourceError(who, why, f"pip install torch, or save it again as {SAFETENSORS}")
    return {}


def _read_safetensors(raw: bytes) -> dict[str, NDArray]:
    length = int.from_bytes(raw[:_HEADER], "little")
    body = memoryview(raw)[_HEADER + length :]
    header = json.loads(raw[_HEADER : _HEADER + length])
    return {name: _tensor(entry, body) for name, entry in header.items() if name != "__metadata__"}


def _tensor(entry: Mapping[str, Any], body: memoryview) -> NDArray:
    """Return a tensor in fp32; bf16 is the upper half of its bits."""
    start, end = entry["data_offsets"]
    values = np.frombuffer(body[start:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def weights_of(directory: Path) -> dict[str, Path]:
    """Return the files of the weights of all modules behind the transformer, by their place in the directory."""
    found: dict[str, Path] = {}
    for folder in _folders(directory):
        names = (f"{folder}/{name}" for name in (SAFETENSORS, PICKLE))
        found |= dict([(name, directory / name) for name in names if (directory / name).is_file()][:1])
    return found


def without_pickles(directory: Path, output: Path) -> None:
    """Write the weights that lie in pickles into `output` as safetensors, where torch is installed and reads them. The
    others are missing there, which `encode` tells: the graph itself does without."""
    for name, path in weights_of(directory).items():
        if path.name == PICKLE and present("torch"):
            from safetensors.numpy import save_file

            with suppress(SourceError):
                found = read_stored(path.parent, str(path))
                target = (output / name).with_name(SAFETENSORS)
                target.parent.mkdir(parents=True, exist_ok=True)
                save_file(found, target)


def _folders(directory: Path) -> list[str]:
    """Return the folders below the directory that the list of its modules names; none where it is damaged."""
    try:
        listed = json.loads((directory / MODULES).read_text(encoding="utf-8"))
        named = [PurePosixPath(str(item["path"])) for item in listed]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return [path.as_posix() for path in named[1:] if path.parts and ".." not in path.parts and not path.is_absolute()]
