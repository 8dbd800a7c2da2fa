"""Functions whose value at some edge converters lose, written out so that every runtime gives eager's.

The tracing exporter of torch (2.13) writes `atan2` as an arc tangent of a quotient: NaN for two zeros, and -π in place
of π for a zero before a number below it. It writes attention as a softmax: NaN for a row that a mask of -inf leaves
nothing of, where eager gives zeros. It has no `rms_norm`, and the other exporter takes an epsilon of 1e-8 and less for
zero, so that rows of zeros become NaN. A mean over nothing, NaN in eager, is zero in runtimes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ATAN2 = {torch.atan2, torch.Tensor.atan2, torch.arctan2, torch.Tensor.arctan2}
_RMS_NORM = {torch.rms_norm, torch.nn.functional.rms_norm}
_MEAN = {torch.mean, torch.Tensor.mean}
_CHOICE = {torch.Tensor.__getitem__, torch.masked_select, torch.Tensor.masked_select}
#: Attribute of tensors that a mask of booleans chose, of which there may be none.
_CHOSEN = "_chosen_by_mask"
#: Types of 16 bits, in which eager computes sums and squares in 32.
_NARROW = (torch.float16, torch.bfloat16)
_ATTENTION = torch.nn.functional.scaled_dot_product_attention
#: Position of the mask among the arguments of attention.
_MASK = 3


class EdgesWrittenOut(TorchFunctionMode):
    """While it is active, these functions are traced or exported with their values at edges."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _ATAN2 and not given and all(isinstance(item, torch.Tensor) for item in args):
            return _atan2(*args)
        if func in _RMS_NORM:
            return _rms_norm(*args, **given) if _is_usual_norm(args, given) else func(*args, **given)
        if func in _CHOICE:
            found = func(*args, **given)
            if _has_mask((*args[1:], *given.values())):
                setattr(found, _CHOSEN, True)
            return found
        if func in _MEAN and args and getattr(args[0], _CHOSEN, False) and _is_usual_mean(args, given):
            return _mean(*args, **given)
        if func is _ATTENTION and (mask := _float_mask(args, given)) is not None:
            return func(*args, **given).masked_fill((mask == -math.inf).all(dim=-1, keepdim=True), 0.0)
        return func(*args, **given)


def _atan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if not (y.is_floating_point() and x.is_floating_point()):
        return torch.atan2(y, x)
    infinite = (x.abs() == math.inf) & (y.abs() == math.inf)
    quotient = y / torch.where(x == 0, torch.ones_like(x), x)
    leaning = torch.atan(torch.where(infinite, torch.sign(y) * torch.sign(x), quotient))
    # A quarter of π is computed, since an export keeps numbers in 32 bits.
    quarter = torch.atan(torch.ones((), dtype=leaning.dtype, device=leaning.device))
    upright = torch.sign(y).to(leaning.dtype) * 2 * quarter
    turned = leaning + torch.where(_is_below(y), -4 * quarter, 4 * quarter)
    return torch.where((x == 0) & ((y > 0) | (y < 0)), upright, torch.where(_is_below(x), turned, leaning))


def _is_below(value: torch.Tensor) -> torch.Tensor:
    """Return where a value is below zero, or is the zero of that side."""
    return (value < 0) | (1 / value == -math.inf)


def _has_mask(key: tuple[Any, ...]) -> bool:
    parts = [part for item in key for part in (item if isinstance(item, tuple) else (item,))]
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


def _is_usual_mean(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    """Whether a mean is called as `_mean` is: not with names of NumPy's, another type, or a tensor to write to."""
    dim = given.get("dim", args[1] if len(args) > 1 else None)
    numbers = dim is None or all(isinstance(item, int) for item in (dim if isinstance(dim, list | tuple) else [dim]))
    return numbers and len(args) <= 3 and given.keys() <= {"dim", "keepdim"} and bool(args[0].is_floating_point())


def _mean(input: torch.Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> torch.Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(input.dim()))  # [] means all, as in eager
    wide = input.float() if input.dtype in _NARROW else input
    made = wide.sum(dims, keepdim=keepdim) / math.prod(input.shape[index] for index in dims)
    return made.to(input.dtype)


def _is_usual_norm(args: tuple[Any, ...], given: Mapping[str, Any]) -> bool:
    names = ("input", "normalized_shape", "weight", "eps")
    found = {**dict(zip(names, args, strict=False)), **given}
    if len(args) > len(names) or not found.keys() <= set(names) or not isinstance(found.get("input"), torch.Tensor):
        return False
    return bool(found["input"].is_floating_point()) and isinstance(found.get("normalized_shape"), list | tuple)


def _rms_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    wide = input.float() if input.dtype in _NARROW else input
    least = torch.finfo(wide.dtype).eps if eps is None else eps
    dims = list(range(-len(normalized_shape), 0))
    made = wide * torch.rsqrt(wide.pow(2).mean(dims, keepdim=True) + least)
    return (made if weight is None else made * weight).type_as(input)


def _float_mask(args: tuple[Any, ...], given: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the mask that an attention adds to its scores, which may be -inf in a later call where samples have none;
    None: it has no such mask."""
    mask = args[_MASK] if len(args) > _MASK else given.get("attn_mask")
    return mask if isinstance(mask, torch.Tensor) and mask.is_floating_point() else None
