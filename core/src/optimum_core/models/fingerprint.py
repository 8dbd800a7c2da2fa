"""Fingerprints: sha256 of everything that affects a model's outputs, equal for equal models only."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact.integrity import describe
from optimum_core.errors import OptionError

_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json", "config.json")
_LIBRARIES = ("torch.", "transformers.", "torchvision.", "timm.")


def of_directory(directory: Path, *, with_code: bool) -> str:
    """Return the fingerprint of a saved model: its weights and configuration, and its code if that is run."""
    digest = hashlib.sha256()
    patterns = (*_WEIGHTS, "*.py") if with_code else _WEIGHTS
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        digest.update(f"{path.name}:{of_file(path)}\n".encode())
    return digest.hexdigest()


def of_file(path: Path) -> str:
    """Return the sha256 of one file."""
    return describe(path).sha256


def of_module(module: Any) -> str:
    """Return the fingerprint of a module in memory: tensors, plain attributes, configuration, and the code of classes
    that belong to no library."""
    import torch

    digest = hashlib.sha256()
    for part in _described(module):
        digest.update(part.encode())
    for name, tensor in module.state_dict().items():
        layout = "" if tensor.layout is torch.strided else tensor.layout
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{layout}".encode())
        digest.update(_raw(tensor if not layout else tensor.to_dense()))
    return digest.hexdigest()


def _described(module: Any) -> Iterator[str]:
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        yield json.dumps(config.to_dict(), sort_keys=True, default=str)
    sources: set[type] = set()
    for name, part in module.named_modules():
        cls = type(part)
        yield f"{name}:{cls.__module__}.{cls.__qualname__}:{_plain_attributes(part)}"
        if cls not in sources and not cls.__module__.startswith(_LIBRARIES):
            sources.add(cls)
            yield _code(cls)


def _plain_attributes(part: Any) -> str:
    plain = {
        name: value
        for name, value in vars(part).items()
        if name != "training" and isinstance(value, bool | int | float | str | tuple | type(None))
    }
    return repr(sorted(plain.items()))


def _code(cls: type) -> str:
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):  # defined where no source is kept, such as a console
        forward = getattr(getattr(cls, "forward", None), "__code__", None)
        return repr((forward.co_code, forward.co_consts, forward.co_names)) if forward else cls.__qualname__


def _raw(tensor: Any) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")


def of_samples(samples: Any) -> str:
    """Return the fingerprint of sample inputs in any container; "" for none.

    Raises:
        OptionError: one has no dense values in memory, such as a sparse tensor or rows of unequal length.
    """
    if samples is None:
        return ""
    items = samples.items() if hasattr(samples, "items") else enumerate(_as_sequence(samples))
    digest = hashlib.sha256()
    for name, value in items:
        try:
            raw = _raw(value) if hasattr(value, "detach") else memoryview(np.ascontiguousarray(value).tobytes())
        except Exception as error:
            raise OptionError(f"sample input {name!r}", f"it is no tensor: {error}", "pass a dense tensor") from error
        digest.update(f"{name}{getattr(value, 'dtype', '')}{tuple(getattr(value, 'shape', ()))}".encode())
        digest.update(raw)
    return digest.hexdigest()


def _as_sequence(samples: Any) -> tuple[Any, ...]:
    return tuple(samples) if isinstance(samples, tuple | list) else (samples,)
