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

from optimum_core.models.eager.traced_lengths import is_traced

_SUM = frozenset({torch.sum, torch.Tensor.sum})
_GREATER = frozenset({torch.greater, torch.gt, torch.Tensor.greater, torch.Tensor.gt, torch.Tensor.__gt__})
_NONZERO = frozenset({torch.nonzero, torch.Tensor.nonzero})

_NONE = object()


class WholeExpertLoops(TorchFunctionMode):
    """While it is active, `torch.greater(mask.sum((-1, -2)), 0).nonzero()` names all experts of the mask, and counts of
    an expert's tokens, `mask.sum(0).tolist()`, stay tensors in a trace."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, torch.Tensor] = {}
        self._hits: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        first: Any = args[0] if args else None
        if func in _NONZERO and _holds(self._hits, first) and not torch.compiler.is_exporting():
            return torch.arange(first.shape[0], device=first.device)[:, None]
        if func is torch.Tensor.tolist and _holds(self._counts, first) and is_traced():
            return list(first.unbind(0))
        answer = func(*args, **given)
        if func in _SUM and _counts_tokens(first, args[1:], given):
            self._counts[id(answer)] = answer
        elif func in _GREATER and _holds(self._counts, first) and args[1:] == (0,):
            self._hits[id(answer)] = answer
        return answer


def _holds(known: Mapping[int, torch.Tensor], value: Any) -> bool:
    return known.get(id(value), _NONE) is value


def _counts_tokens(mask: Any, further: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether a sum counts the tokens of each expert in a mask of whole numbers."""
    axes = given.get("dim", further[0] if further else None)
    along = tuple(axes) if isinstance(axes, list | tuple) else (axes,)
    whole = isinstance(mask, torch.Tensor) and not mask.is_floating_point() and not mask.is_complex()
    return whole and (mask.ndim, along) in ((3, (-1, -2)), (2, (0,)))
