"""Reductions over whole axes: sums and extremes, norms, softmax. Sums of 16-bit numbers are taken in 32 bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from optimum_coreml_interpreter.elementwise import cast
from optimum_coreml_interpreter.registry import UndefinedError, axes_of, axis_of, flag, operator, wide

Tensor = torch.Tensor
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keep),
    "reduce_sum": lambda x, axes, keep: torch.sum(x, axes, keep),
    "reduce_mean": lambda x, axes, keep: torch.mean(x, axes, keep),
    "reduce_prod": _product,
    "reduce_sum_square": lambda x, axes, keep: torch.sum(x * x, axes, keep),
    "reduce_l1_norm": lambda x, axes, keep: torch.sum(x.abs(), axes, keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}
_OF_FLOATS = frozenset({"reduce_mean", "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp"})


def _reduction(name: str, function: Reduction) -> Callable[..., Tensor]:
    def apply(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        if name in _OF_FLOATS and not x.is_floating_point():
            raise UndefinedError(f"{name} of {x.dtype}")
        return function(wide(x), axes_of(axes, x.ndim), flag(keep_dims)).to(x.dtype)

    return apply


for _name, _function in _REDUCTIONS.items():
    operator(_name)(_reduction(_name, _function))


@operator("reduce_argmax")
def _argmax(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return cast(torch.argmax(x, axis_of(axis, x.ndim), flag(keep_dims)), output_dtype)


@operator("reduce_argmin")
def _argmin(
    x: Tensor, axis: Tensor | int = -1, keep_dims: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    return cast(torch.argmin(x, axis_of(axis, x.ndim), flag(keep_dims)), output_dtype)


@operator("cumsum")
def _cumsum(
    x: Tensor, axis: Tensor | int = 0, exclusive: Tensor | bool = False, reverse: Tensor | bool = False
) -> Tensor:
    place = axis_of(axis, x.ndim)
    value = wide(x).flip(place) if flag(reverse) else wide(x)
    total = torch.cumsum(value, place)
    if flag(exclusive):
        # Shifted rather than subtracted, which would not be exact.
        empty = torch.zeros_like(total.narrow(place, 0, 1))
        total = torch.cat([empty, total.narrow(place, 0, x.shape[place] - 1)], place)
    return (total.flip(place) if flag(reverse) else total).to(x.dtype)


@operator("softmax")
def _softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(wide(x), axis_of(axis, x.ndim)).to(x.dtype)


@operator("layer_norm")
def _layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    places = axes_of(axes, x.ndim)
    value = wide(x)
    centred = value - value.mean(places, keepdim=True)
    result = centred / torch.sqrt((centred * centred).mean(places, keepdim=True) + float(epsilon))
    shape = [x.shape[axis] if axis in places else 1 for axis in range(x.ndim)]
    return _scaled(result, gamma, beta, shape).to(x.dtype)


@operator("batch_norm")
def _batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    shape = [1, -1] + [1] * (x.ndim - 2)
    centred = wide(x) - wide(mean).reshape(shape)
    result = centred / torch.sqrt(wide(variance).reshape(shape) + float(epsilon))
    return _scaled(result, gamma, beta, shape).to(x.dtype)


@operator("instance_norm")
def _instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | float = 1e-5
) -> Tensor:
    places, value = list(range(2, x.ndim)), wide(x)
    centred = value - value.mean(places, keepdim=True)
    result = centred / torch.sqrt((centred * centred).mean(places, keepdim=True) + float(epsilon))
    return _scaled(result, gamma, beta, [1, -1] + [1] * (x.ndim - 2)).to(x.dtype)


@operator("l2_norm")
def _l2_norm(x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    value = wide(x)
    total = (value * value).sum([-3, -2, -1], keepdim=True)
    return (value / torch.sqrt(total + float(epsilon))).to(x.dtype)


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: list[int]) -> Tensor:
    if gamma is not None:
        x = x * wide(gamma).reshape(shape)
    return x if beta is None else x + wide(beta).reshape(shape)
