"""Operators on images: pooling and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from optimum_coreml_interpreter.products import around, padded
from optimum_coreml_interpreter.registry import UndefinedError, flag, integer, integers, operator, wide

Tensor = torch.Tensor
Pairs = list[tuple[int, int]]


def _windows(
    x: Tensor, kernel: Sequence[int], strides: Tensor | None, pad_type: str, pad: Tensor | None, ceil_mode: bool
) -> tuple[list[int], Pairs, Pairs]:
    """Return the strides, the padding, and the extent of the last windows beyond it where sizes are rounded up."""
    axes = len(kernel)
    steps = [1] * axes if strides is None else integers(strides)
    pairs = around(pad_type, x.shape[2:], kernel, steps, None if pad is None else integers(pad))
    beyond = [(0, 0)] * axes
    if ceil_mode:
        for axis, (before, after) in enumerate(pairs):
            size, step = x.shape[2 + axis], steps[axis]
            count = (size + before + after - kernel[axis] + step - 1) // step + 1
            # A window that would begin in the padding after the image is left out.
            if (count - 1) * step >= size + before:
                if before + after == 0:  # without padding, the specification keeps it
                    raise UndefinedError(f"a window that begins at {(count - 1) * step} of {size}")
                count -= 1
            beyond[axis] = (0, max(0, (count - 1) * step + kernel[axis] - size - before - after))
    return steps, pairs, beyond


def _pool(kind: str, axes: int) -> Any:
    return getattr(functional, f"{kind}_pool{axes}d")


@operator("max_pool")
def _max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    kernel = integers(kernel_sizes)
    steps, pairs, beyond = _windows(x, kernel, strides, pad_type, pad, flag(ceil_mode))
    value = padded(padded(wide(x), pairs, -math.inf), beyond, -math.inf)
    result: Tensor = _pool("max", len(kernel))(value, kernel, steps)
    return result.to(x.dtype)


@operator("avg_pool")
def _avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
    exclude_padding_from_average: Tensor | bool = False,
) -> Tensor:
    kernel = integers(kernel_sizes)
    steps, pairs, beyond = _windows(x, kernel, strides, pad_type, pad, flag(ceil_mode))
    average = _pool("avg", len(kernel))
    # The sums, and the number of elements of each window that count: never those beyond the padding.
    inside = torch.ones([1, 1, *x.shape[2:]])
    counted = padded(inside, pairs, 0.0 if flag(exclude_padding_from_average) else 1.0)
    total = average(padded(padded(wide(x), pairs), beyond), kernel, steps)
    share: Tensor = total / average(padded(counted, beyond), kernel, steps)
    return share.to(x.dtype)


@operator("l2_pool")
def _l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    kernel = integers(kernel_sizes)
    steps, pairs, beyond = _windows(x, kernel, strides, pad_type, pad, flag(ceil_mode))
    squares = padded(padded(wide(x) ** 2, pairs), beyond)
    result: Tensor = torch.sqrt(_pool("avg", len(kernel))(squares, kernel, steps) * math.prod(kernel))
    return result.to(x.dtype)


# Resizing the last two axes.


def _scaled_sizes(x: Tensor, height: Tensor | float, width: Tensor | float) -> tuple[int, int]:
    # In 32 bits: 10 by a factor of 0.7 is 7, though the nearest float to 0.7 is less than it.
    factors = (torch.as_tensor(factor, dtype=torch.float32) for factor in (height, width))
    tall, broad = (int(torch.floor(factor * length)) for factor, length in zip(factors, x.shape[-2:], strict=True))
    return tall, broad


def _nearest(x: Tensor, sizes: tuple[int, int]) -> Tensor:
    for axis, size in zip((-2, -1), sizes, strict=True):
        length = x.shape[axis]
        places = torch.tensor([min(index * length // size, length - 1) for index in range(size)])
        x = x.index_select(axis, places)
    return x


@operator("upsample_nearest_neighbor")
def _upsample_nearest(
    x: Tensor, scale_factor_height: Tensor | float = 1, scale_factor_width: Tensor | float = 1
) -> Tensor:
    return _nearest(x, _scaled_sizes(x, scale_factor_height, scale_factor_width))


@operator("resize_nearest_neighbor")
def _resize_nearest(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _nearest(x, (integer(target_size_height), integer(target_size_width)))


def _grid(mode: str, length: int, size: int) -> Tensor:
    """Return the coordinate in an axis of `length` of each of `size` new elements, by MIL's specification."""
    index = torch.arange(size, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        places = (index + 0.5) * length / size - 0.5
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if size == 1:
            places = index if mode == "STRICT_ALIGN_CORNERS" else index + (length - 1) / 2
        else:
            places = index * (length - 1) / (size - 1)
    elif mode == "DEFAULT":
        places = index * length / size
    elif mode == "OFFSET_CORNERS":
        places = (index + 0.5) * max(1, length - 1) / size
    else:
        raise UndefinedError(f"sampling mode {mode!r}")
    return places.clamp(0, length - 1)


def _bilinear(x: Tensor, sizes: tuple[int, int], mode: str) -> Tensor:
    value = wide(x)
    for axis, size in zip((-2, -1), sizes, strict=True):
        places = _grid(mode, value.shape[axis], size)
        below = places.floor().long()
        above = (below + 1).clamp(max=value.shape[axis] - 1)
        shape = [-1 if place == value.ndim + axis else 1 for place in range(value.ndim)]
        share = (places - below).to(value.dtype).reshape(shape)
        value = value.index_select(axis, below) * (1 - share) + value.index_select(axis, above) * share
    return value.to(x.dtype)


@operator("upsample_bilinear")
def _upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | float = 1,
    scale_factor_width: Tensor | float = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    corners = flag(align_corners)
    if half_pixel_centers is not None and flag(half_pixel_centers) == corners:
        raise UndefinedError(f"half_pixel_centers {flag(half_pixel_centers)} with align_corners {corners}")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS"
    return _bilinear(x, _scaled_sizes(x, scale_factor_height, scale_factor_width), mode)


@operator("resize_bilinear")
def _resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return _bilinear(x, (integer(target_size_height), integer(target_size_width)), sampling_mode)
