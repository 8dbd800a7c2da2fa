"""Views that a trace would fix to the lengths of its samples, as Longformer's and LED's sliding windows make them.

- Strides are numbers in a trace, and `as_strided` has no form in ONNX for others: rows are gathered by computed places.
- `states[:, :-padding]` takes off what was added. A trace keeps it where the samples had padding, and Python takes
  nothing at all where `padding` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.traced_lengths import is_traced

_STRIDED = frozenset({torch.as_strided, torch.Tensor.as_strided})


class TracedViews(TorchFunctionMode):
    """While it is active, these views follow the lengths of each call in a trace."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not is_traced():
            return func(*args, **given)
        if func is torch.Tensor.stride and len(args) == 1 and not given:
            return _strides(args[0])
        if func in _STRIDED and (rows := _strided(*args, **given)) is not None:
            return rows
        if func is torch.Tensor.__getitem__:
            return func(args[0], _counted(args[0], args[1]))
        return func(*args, **given)


def _strides(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return the strides of a tensor as if it were contiguous; they are traced where lengths are."""
    found: list[Any] = [1]
    for axis in range(tensor.ndim - 1, 0, -1):
        found.insert(0, tensor.size(axis) * found[0])
    return tuple(found)


def _strided(tensor: torch.Tensor, size: Any, stride: Any, storage_offset: Any = None) -> torch.Tensor | None:
    """Return the rows of a tensor that a view by strides from `_strides` has; None: it has another last axis, or other
    strides."""
    width = int(tensor.shape[-1])
    if storage_offset or not any(isinstance(step, torch.Tensor) for step in stride):
        return None
    if int(size[-1]) != width or int(stride[-1]) != 1:
        return None
    if any(int(step) % width for step in stride[:-1]):
        return None
    places: Any = 0
    for axis, (length, step) in enumerate(zip(size[:-1], stride[:-1], strict=True)):
        along = torch.arange(length) * (step // width)
        places = places + along.reshape([-1 if at == axis else 1 for at in range(len(size) - 1)])
    return tensor.reshape(-1, width)[places]


def _counted(tensor: torch.Tensor, index: Any) -> Any:
    """Return an index whose traced ends are counted from the front."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis or part is None for part in parts) or not any(map(_ends_early, parts)):
        return index
    return tuple(
        slice(part.start, tensor.size(axis) + part.stop, part.step) if _ends_early(part) else part
        for axis, part in enumerate(parts)
    )


def _ends_early(part: Any) -> bool:
    """Whether a part of an index ends a traced number of places before the end."""
    return isinstance(part, slice) and isinstance(part.stop, torch.Tensor) and int(part.stop) <= 0
