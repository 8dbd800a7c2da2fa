"""Trial of an eager call in which whatever is kept by its value (`x[x > 0]`, `nonzero`, `unique`) is one fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_BY_MASK = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_MASKS = (torch.bool, torch.uint8)


class FewerKept(TorchDispatchMode):  # type: ignore[no-untyped-call] # of torch
    """A mode in which what operators keep by its value lacks the last.

    The values of one call do not tell an axis of such a length from the input's, where all happen to be kept.

    Attributes:
        happened: whether there was such an operator.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self.happened = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func.name() in _BY_MASK:
            return func(args[0], [self._fewer(index) for index in args[1]], *args[2:], **named)
        found = func(*args, **named)
        if torch.Tag.dynamic_output_shape not in getattr(func, "tags", ()):
            return found
        self.happened = True
        if isinstance(found, torch.Tensor):
            return found[:-1]
        values, inverse, counts = found  # as `unique` returns them; the last two may be empty
        return values[:-1], inverse.clamp(max=max(len(values) - 2, 0)), counts[:-1]

    def _fewer(self, mask: Any) -> Any:
        """Return an index without the last place that it keeps, if it is a mask."""
        if mask is None or mask.dtype not in _MASKS:
            return mask
        self.happened = True
        places = mask.nonzero()
        if not len(places):
            return mask
        made = mask.clone()
        made[tuple(places[-1])] = 0
        return made
