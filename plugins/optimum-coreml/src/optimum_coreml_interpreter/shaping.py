"""Operators that move, cut, join and make tensors, without a change to any value."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optimum_coreml_interpreter.elementwise import cast
from optimum_coreml_interpreter.registry import UndefinedError, axes_of, axis_of, flag, integer, integers, operator

Tensor = torch.Tensor


@operator("shape")
def _shape(x: Tensor, output_dtype: str = "int32") -> Tensor:
    return cast(torch.tensor(list(x.shape), dtype=torch.int64), output_dtype)


@operator("reshape", versioned=True)
def _reshape(x: Tensor, shape: Tensor, *, opset: int) -> Tensor:
    """Reshape. 0 stands for the length of x there; since iOS17 counted from the last axis, and 1 beyond the first."""
    wanted = integers(shape)
    if 0 in wanted and x.numel():
        more = len(wanted) - x.ndim
        if more and opset < 7:
            raise UndefinedError(f"0 in the shape {wanted} for a tensor of {x.ndim} axes")
        lengths = [1] * more + list(x.shape[max(0, -more) :])
        wanted = [own if length == 0 else length for length, own in zip(wanted, lengths, strict=True)]
    return x.reshape(wanted)


@operator("transpose")
def _transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute([axis_of(axis, x.ndim) for axis in integers(perm)])


@operator("expand_dims")
def _expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    places = integers(axes)
    for axis in sorted(axis_of(axis, x.ndim + len(places)) for axis in places):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze")
def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    for axis in reversed(axes_of(axes, x.ndim)):
        if x.shape[axis] != 1:
            raise UndefinedError(f"axis {axis} of {tuple(x.shape)} has more than one element")
        x = x.squeeze(axis)
    return x


@operator("concat")
def _concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    parts = [item.reshape(1) if item.ndim == 0 else item for item in values]
    place = axis_of(axis, parts[0].ndim)
    if len({item.dtype for item in parts}) > 1:
        raise UndefinedError("tensors of several types in one")
    if not flag(interleave):
        return torch.cat(parts, place)
    if len({item.shape for item in parts}) > 1:
        raise UndefinedError("tensors of several shapes, interleaved")
    return torch.stack(parts, place + 1).flatten(place, place + 1)


@operator("stack")
def _stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    if len({item.dtype for item in values}) > 1:
        raise UndefinedError("tensors of several types in one")
    return torch.stack(list(values), axis_of(axis, values[0].ndim + 1))


@operator("split")
def _split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    place = axis_of(axis, x.ndim)
    if split_sizes is not None:
        sizes = integers(split_sizes)
    else:
        assert num_splits is not None
        count = integer(num_splits)
        if x.shape[place] % count:
            raise UndefinedError(f"{x.shape[place]} in {count} equal parts")
        sizes = [x.shape[place] // count] * count
    return torch.split(x, sizes, place)


@operator("tile")
def _tile(x: Tensor, reps: Tensor) -> Tensor:
    counts = integers(reps)
    if len(counts) != x.ndim:
        raise UndefinedError(f"{len(counts)} repetitions for {x.ndim} axes")
    return x.repeat(counts)


@operator("reverse")
def _reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(axes_of(axes, x.ndim))


@operator("flatten2d")
def _flatten2d(x: Tensor, axis: Tensor | int = 1) -> Tensor:
    place = integer(axis)
    place = place + x.ndim if place < 0 else place
    rows = 1
    for length in x.shape[:place]:
        rows *= length
    return x.reshape(rows, -1)


@operator("fill")
def _fill(shape: Tensor, value: Tensor) -> Tensor:
    return value.reshape(()).expand(integers(shape)).clone()


@operator("fill_like")
def _fill_like(ref_tensor: Tensor, value: Tensor) -> Tensor:
    return value.reshape(()).expand(ref_tensor.shape).clone()


@operator("range_1d")
def _range(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item()).to(end.dtype)


@operator("one_hot")
def _one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    assert on_value is not None and off_value is not None
    size, place = integer(one_hot_vector_size), axis_of(axis, indices.ndim + 1)
    hot = indices.unsqueeze(place) == torch.arange(size).reshape([-1] + [1] * (indices.ndim - place))
    return torch.where(hot, on_value, off_value)


@operator("band_part")
def _band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    below, above = integer(lower), integer(upper)
    distance = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])[None]
    kept = torch.ones_like(distance, dtype=torch.bool)
    if below >= 0:
        kept &= distance <= below
    if above >= 0:
        kept &= -distance <= above
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@operator("pixel_shuffle")
def _pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return torch.nn.functional.pixel_shuffle(x, integer(upscale_factor))


@operator("pad")
def _pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    amounts = integers(pad)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    first = x.ndim - len(pairs)
    if first < 0 or min(amounts, default=0) < 0:
        raise UndefinedError(f"a padding of {amounts} for {x.ndim} axes")
    for axis, (before, after) in enumerate(pairs, first):
        if before or after:
            x = _padded(x, axis, before, after, mode, constant_val)
    return x


def _padded(x: Tensor, axis: int, before: int, after: int, mode: str, value: Tensor | None) -> Tensor:
    length = x.shape[axis]
    if mode == "constant":
        assert value is not None
        shapes = [[*x.shape[:axis], amount, *x.shape[axis + 1 :]] for amount in (before, after)]
        ends = [value.to(x.dtype).reshape(()).expand(shape) for shape in shapes]
        return torch.cat([ends[0], x, ends[1]], axis)
    places = torch.arange(-before, length + after)
    if mode == "replicate":
        return x.index_select(axis, places.clamp(0, length - 1))
    if mode == "reflect":
        if max(before, after) >= length:
            raise UndefinedError(f"a reflection of {before} and {after} in {length}")
        places = places.abs()
        return x.index_select(axis, torch.where(places >= length, 2 * (length - 1) - places, places))
    raise UndefinedError(f"mode {mode!r}")


# Slices, as numpy's: from begin up to end by stride; a mask stands for "from the first" or "up to the last".


@operator("slice_by_index")
def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    places, squeezed = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, indices in enumerate(places):
        if not (indices.step == 1 and indices.start == 0 and len(indices) == x.shape[axis]):
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64))
    for axis in reversed(squeezed):
        x = x.squeeze(axis)
    return x


@operator("slice_update")
def _slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    places, squeezed = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    shape = [len(indices) for index, indices in enumerate(places) if index not in squeezed]
    if list(update.shape) != shape or update.dtype != x.dtype:
        raise UndefinedError(f"an update of {tuple(update.shape)} for a slice of {tuple(shape)}")
    result = x.clone()
    grid = torch.meshgrid(*(torch.tensor(list(indices), dtype=torch.int64) for indices in places), indexing="ij")
    result[grid] = update.reshape([len(indices) for indices in places])
    return result


def _places(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> tuple[list[range], list[int]]:
    """Return the selected indices of each axis, and the axes to remove: their one index is `begin`."""
    first, last = integers(begin), integers(end)
    steps = integers(stride) if stride is not None else [1] * x.ndim
    masks = [_mask(mask, x.ndim) for mask in (begin_mask, end_mask, squeeze_mask)]
    if not len(first) == len(last) == len(steps) == x.ndim:
        raise UndefinedError(f"{len(first)} slices for {x.ndim} axes")
    places, squeezed = [], []
    for axis, length in enumerate(x.shape):
        open_start, open_end, single = (mask[axis] for mask in masks)
        if single:
            index = axis_of(0 if open_start else first[axis], length)
            places.append(range(index, index + 1))
            squeezed.append(axis)
        else:
            cut = slice(None if open_start else first[axis], None if open_end else last[axis], steps[axis])
            places.append(range(*cut.indices(length)))
    return places, squeezed


def _mask(mask: Tensor | None, rank: int) -> list[bool]:
    return [False] * rank if mask is None else [bool(item) for item in mask.reshape(-1).tolist()]


@operator("slice_by_size")
def _slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (start, count) in enumerate(zip(integers(begin), integers(size), strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        length = x.shape[axis] - first if count == -1 else count
        if first < 0 or length < 0 or first + length > x.shape[axis]:
            raise UndefinedError(f"{count} elements from {start} on, of {x.shape[axis]}")
        x = x.narrow(axis, first, length)
    return x
