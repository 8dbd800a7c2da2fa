"""Loops of a mixture of experts over those that some token was sent to, as loops over all of them.

Models whose experts have one implementation only (Switch Transformers, NLLB-MoE) look up which experts got a token, and
call these. A trace would keep the experts of its samples. A loop over all experts is the same computation: one without
tokens gets no rows, and adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.exporting.rewriting.traced_lengths import is_traced

_SUM = frozenset({torch.sum, torch.Tensor.sum})
_GREATER = frozenset({torch.greater, torch.gt, torch.Tensor.greater, torch.Tensor.gt, torch.Tensor.__gt__})
_NONZERO = frozenset({torch.nonzero, torch.Tensor.nonzero})
_UNBIND = frozenset({torch.unbind, torch.Tensor.unbind})
#: What leaves a mask of experts one: the capacity of experts is taken off by a product.
_KEEPS = frozenset({
    torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.permute, torch.Tensor.permute, torch.Tensor.reshape,
    torch.Tensor.view,
})  # fmt: skip

_NONE = object()


class WholeExpertLoops(TorchFunctionMode):
    """While it is active, loops over `torch.greater(mask.sum((-1, -2)), 0).nonzero()` take all experts of a mask that
    `one_hot` made, and counts of an expert's tokens, `mask.sum(0).tolist()`, stay tensors in a trace.

    What else is made of these keeps its values.
    """

    def __init__(self) -> None:
        super().__init__()
        # By identity, with the tensors themselves: a freed one's identity is given to others.
        self._masks: dict[int, torch.Tensor] = {}
        self._used: dict[int, torch.Tensor] = {}
        self._hits: dict[int, torch.Tensor] = {}
        self._places: dict[int, tuple[torch.Tensor, int]] = {}
        self._counts: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        first: Any = args[0] if args else None
        if func in _UNBIND and id(first) in self._places and (*args[1:], *given.values()) in ((), (0,)):
            return torch.arange(self._places[id(first)][1], device=first.device)[:, None].unbind(0)
        if func is torch.Tensor.tolist and _holds(self._counts, first) and is_traced():
            return list(first.unbind(0))
        answer = func(*args, **given)
        if not torch.compiler.is_exporting():
            self._note(func, first, (args[1:], given), answer)
        return answer

    def _note(self, func: Any, first: Any, further: tuple[tuple[Any, ...], Mapping[str, Any]], answer: Any) -> None:
        """Keep what leads from a mask to a loop over its experts, or to a list of their counts."""
        if func is torch.nn.functional.one_hot or (func in _KEEPS and _holds(self._masks, first)):
            self._masks[id(answer)] = answer
        elif func in _SUM and _is_whole(first):
            axes = _axes(*further)
            if first.ndim == 3 and axes == (-1, -2) and _holds(self._masks, first):
                self._used[id(answer)] = answer
            elif first.ndim == 2 and axes == (0,):
                self._counts[id(answer)] = answer
        elif func in _GREATER and _holds(self._used, first) and further[0] == (0,):
            self._hits[id(answer)] = answer
        elif func in _NONZERO and _holds(self._hits, first) and isinstance(answer, torch.Tensor):
            self._places[id(answer)] = answer, int(first.shape[0])


def _holds(known: Mapping[int, torch.Tensor], value: Any) -> bool:
    return known.get(id(value), _NONE) is value


def _axes(args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the axes of a sum; none where it keeps them, or makes another type."""
    if set(given) - {"dim"} or len(args) > 1:
        return ()
    axes = given.get("dim", args[0] if args else None)
    return tuple(axes) if isinstance(axes, list | tuple) else (axes,)


def _is_whole(mask: Any) -> bool:
    return isinstance(mask, torch.Tensor) and not mask.is_floating_point() and not mask.is_complex()
