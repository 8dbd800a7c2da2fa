"""The precision of a model's weights as its author published them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optimum_core.models.weights import state_tensors

_SHORT = {"torch.float16": "fp16", "torch.bfloat16": "bf16", "F16": "fp16", "BF16": "bf16"}


def precision_of_module(module: Any) -> str:
    """Return "fp16" or "bf16" if most of a module's floats are stored so, else "fp32"."""
    return _most((str(tensor.dtype), tensor.numel()) for tensor in state_tensors(module).values())


def is_double(module: Any) -> bool:
    """Whether all floats among a module's parameters, or in the graph that it evaluates, are in 64 bits."""
    import torch

    if not isinstance(module, torch.nn.Module):
        return False
    if (stated := getattr(module, "is_double", None)) is not None and getattr(module, "is_graph", False):
        return bool(stated)
    types = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    return types == {torch.float64}


def precision_of_directory(directory: Path) -> str:
    """Return the precision of a saved model's safetensors, from their headers alone; "fp32" if there are none."""
    from safetensors import SafetensorError, safe_open

    found: list[tuple[str, int]] = []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - it is no mapping
                found += [(part.get_dtype(), _size(part.get_shape())) for part in slices]
        except (SafetensorError, OSError):
            return "fp32"  # an unreadable file is reported when the model is read
    return _most(found)


def _size(shape: Iterable[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _most(sizes: Iterable[tuple[str, int]]) -> str:
    counted: Counter[str] = Counter()
    for dtype, size in sizes:
        counted[_SHORT.get(dtype, "fp32")] += size
    return counted.most_common(1)[0][0] if counted else "fp32"
