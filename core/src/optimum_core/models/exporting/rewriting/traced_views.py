"""Views that a trace would fix to the lengths of its samples, as Longformer's and LED's sliding windows make them.

- Strides are numbers in a trace, and `as_strided` has no form in ONNX for others: rows are gathered by computed places.
- `if padding > 0: states = states[:, :-padding]` takes off what was added. A trace keeps it where the samples had
  padding, and such an end takes nothing at all where `padding` is 0: there, the model would not have asked for it.
  Ends that no such condition guards mean in ONNX what they mean in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.exporting.rewriting.traced_lengths import is_traced

_STRIDED = frozenset({torch.as_strided, torch.Tensor.as_strided})
_ABOVE = frozenset({torch.gt, torch.greater, torch.Tensor.gt, torch.Tensor.greater, torch.Tensor.__gt__})
_NEGATED = frozenset({torch.neg, torch.negative, torch.Tensor.neg, torch.Tensor.negative, torch.Tensor.__neg__})


class TracedViews(TorchFunctionMode):
    """While it is active, these views follow the lengths of each call in a trace."""

    def __init__(self) -> None:
        super().__init__()
        # By identity, with the tensors themselves: a freed one's identity is given to others.
        self._asked: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # conditions `length > 0`, and the length
        self._guarded: dict[int, torch.Tensor] = {}  # lengths that were found to be above 0
        self._ends: dict[int, torch.Tensor] = {}  # these, negated

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
            return func(args[0], self._counted(args[0], args[1]))
        answer = func(*args, **given)
        self._note(func, args, answer)
        return answer

    def _note(self, func: Any, args: tuple[Any, ...], answer: Any) -> None:
        """Keep what leads to a guarded end: `length > 0`, that this was found true, and `-length`."""
        first: Any = args[0] if args else None
        if func in _ABOVE and len(args) == 2 and isinstance(args[1], int) and args[1] == 0 and first.ndim == 0:
            self._asked[id(answer)] = answer, first
        elif func is torch.Tensor.__bool__ and answer and (asked := self._asked.get(id(first))) is not None:
            self._guarded[id(asked[1])] = asked[1]
        elif func in _NEGATED and id(first) in self._guarded:
            self._ends[id(answer)] = answer

    def _counted(self, tensor: torch.Tensor, index: Any) -> Any:
        """Return an index whose guarded ends are counted from the front."""
        parts = index if isinstance(index, tuple) else (index,)
        if not any(map(self._ends_early, parts)):
            return index
        axis, made = 0, []
        for part in parts:
            taken = _axes_of(part)
            if taken is None:
                return index
            early = self._ends_early(part)
            made.append(slice(part.start, tensor.size(axis) + part.stop, part.step) if early else part)
            axis += taken
        return tuple(made)

    def _ends_early(self, part: Any) -> bool:
        return isinstance(part, slice) and id(part.stop) in self._ends


def _axes_of(part: Any) -> int | None:
    """Return how many axes a part of an index takes; None: it is not looked into."""
    if part is None or isinstance(part, bool):
        return 0
    if isinstance(part, torch.Tensor):
        return part.ndim if part.dtype in (torch.bool, torch.uint8) else 1
    return 1 if isinstance(part, int | slice) else None


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
