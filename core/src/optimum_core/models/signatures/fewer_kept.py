"""Trial of an eager call in which whatever is kept by its value (`x[x > 0]`, `nonzero`, `unique`) is one fewer."""

from __future__ import annotations

from typing import Any

import torch

from optimum_core.models.eager.operator_watch import OperatorWatch

_BY_MASK = ("aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_MASKS = (torch.bool, torch.uint8)


class FewerKept(OperatorWatch):
    """A mode in which what operators keep by its value lacks the last.

    The values of one call do not tell an axis of such a length from the input's, where all happen to be kept.

    Attributes:
        happened: whether there was such an operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.happened = False

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func.name() in _BY_MASK:
            return func(args[0], [self._fewer(index) for index in args[1]], *args[2:], **kwargs)
        found = func(*args, **kwargs)
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
