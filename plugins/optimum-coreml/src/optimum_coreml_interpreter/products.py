"""Operators that sum products: matrices, convolutions, attention. Sums of 16-bit products are taken in 32 bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from optimum_coreml_interpreter.registry import UndefinedError, flag, integer, integers, operator, wide

Tensor = torch.Tensor


@operator("linear")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(wide(x), wide(weight), None if bias is None else wide(bias)).to(x.dtype)


@operator("matmul")
def _matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    a, b = wide(x), wide(y)
    if flag(transpose_x) and a.ndim > 1:
        a = a.transpose(-1, -2)
    if flag(transpose_y) and b.ndim > 1:
        b = b.transpose(-1, -2)
    return torch.matmul(a, b).to(x.dtype)


@operator("einsum")
def _einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *(wide(item) for item in values)).to(values[0].dtype)


@operator("scaled_dot_product_attention")
def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = wide(query) @ wide(key).transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + wide(attn_mask)
    return (torch.softmax(scores, -1) @ wide(value)).to(query.dtype)


def around(
    kind: str, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pad: Sequence[int] | None
) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial axis; `kernel` with its dilation."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        if pad is None or len(pad) != 2 * len(sizes):
            raise UndefinedError(f"a padding of {pad} for {len(sizes)} axes")
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    if kind not in ("same", "same_lower"):
        raise UndefinedError(f"padding {kind!r}")
    pairs = []
    for size, width, step in zip(sizes, kernel, strides, strict=True):
        total = max(0, step * math.ceil(size / step) - size + width - step)
        small, large = total // 2, total - total // 2
        pairs.append((small, large) if kind == "same" else (large, small))
    return pairs


def padded(x: Tensor, pairs: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Return the tensor padded with `value` around the last axes."""
    return functional.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)


def _ones(value: Tensor | None, count: int) -> list[int]:
    return [1] * count if value is None else integers(value)


@operator("conv")
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    axes = x.ndim - 2
    steps, spread = _ones(strides, axes), _ones(dilations, axes)
    kernel = [(length - 1) * far + 1 for length, far in zip(weight.shape[2:], spread, strict=True)]
    pairs = around(pad_type, x.shape[2:], kernel, steps, None if pad is None else integers(pad))
    convolve: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    bent = None if bias is None else wide(bias)
    result = convolve(padded(wide(x), pairs), wide(weight), bent, steps, 0, spread, integer(groups))
    return _tensor(result).to(x.dtype)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


@operator("conv_transpose")
def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """Return the whole product, cut by `pad`; zeros fill what `output_shape` requests beyond it."""
    if pad_type not in ("valid", "custom"):
        raise UndefinedError(f"padding {pad_type!r}")
    axes = x.ndim - 2
    steps, spread = _ones(strides, axes), _ones(dilations, axes)
    convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
    whole = _tensor(convolve(wide(x), wide(weight), None, steps, 0, 0, integer(groups), spread))
    pairs = around(pad_type, x.shape[2:], [], steps, None if pad is None else integers(pad))
    wanted = integers(output_shape)[2:] if output_shape is not None else [None] * axes
    for axis, ((before, after), length) in enumerate(zip(pairs, wanted, strict=True), 2):
        kept = whole.shape[axis] - before - after if length is None else length
        missing = max(0, before + kept - whole.shape[axis])
        if missing:
            whole = padded(whole, [(0, missing if place == axis else 0) for place in range(2, whole.ndim)])
        whole = whole.narrow(axis, before, kept)
    if bias is not None:
        whole = whole + wide(bias).reshape([1, -1] + [1] * axes)
    return whole.to(x.dtype)
