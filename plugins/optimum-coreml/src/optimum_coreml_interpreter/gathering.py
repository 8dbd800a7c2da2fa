"""Operators that read or write at indices that other tensors hold."""

from __future__ import annotations

import torch

from optimum_coreml_interpreter.elementwise import cast
from optimum_coreml_interpreter.registry import UndefinedError, axis_of, flag, indices_within, integer, operator

Tensor = torch.Tensor


@operator("gather", versioned=True)
def _gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | None = None,
    *,
    opset: int,
) -> Tensor:
    place, batches = axis_of(axis, x.ndim), integer(batch_dims)
    found = indices_within(indices, x.shape[place], opset)
    if not batches:
        return _taken(x, found, place)
    if place < batches or x.shape[:batches] != indices.shape[:batches]:
        raise UndefinedError(f"axis {place} with {batches} batch axes of {tuple(x.shape)} and {tuple(indices.shape)}")
    pairs = zip(x.flatten(0, batches - 1), found.flatten(0, batches - 1), strict=True)
    rows = [_taken(one, where, place - batches) for one, where in pairs]
    return _of_batches(rows, x.shape[:batches])


def _of_batches(rows: list[Tensor], shape: torch.Size) -> Tensor:
    return torch.stack(rows).reshape([*shape, *rows[0].shape])


def _taken(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    flat = x.index_select(axis, indices.reshape(-1))
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("gather_along_axis", versioned=True)
def _gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Tensor | None = None, *, opset: int
) -> Tensor:
    place = axis_of(axis, x.ndim)
    found = indices_within(indices, x.shape[place], opset)
    # The other axes are equal, or one of them is 1.
    pairs = zip(_without(x.shape, place), _without(found.shape, place), strict=True)
    rest = [max(one, other) for one, other in pairs]
    x = x.expand([*rest[:place], x.shape[place], *rest[place + 1 :]])
    return torch.gather(x, place, found.expand([*rest[:place], found.shape[place], *rest[place + 1 :]]))


def _without(shape: torch.Size, axis: int) -> list[int]:
    return [1 if index == axis else length for index, length in enumerate(shape)]


@operator("gather_nd", versioned=True)
def _gather_nd(
    x: Tensor, indices: Tensor, batch_dims: Tensor | int = 0, validate_indices: Tensor | None = None, *, opset: int
) -> Tensor:
    batches = integer(batch_dims)
    if batches:
        pairs = zip(x.flatten(0, batches - 1), indices.flatten(0, batches - 1), strict=True)
        rows = [_at(one, where, opset) for one, where in pairs]
        return _of_batches(rows, x.shape[:batches])
    return _at(x, indices, opset)


def _at(x: Tensor, indices: Tensor, opset: int) -> Tensor:
    depth = indices.shape[-1]
    rows = _linear(indices, x.shape[:depth], opset)
    taken = x.reshape([-1, *x.shape[depth:]]).index_select(0, rows.reshape(-1))
    return taken.reshape([*indices.shape[:-1], *x.shape[depth:]])


def _linear(indices: Tensor, shape: torch.Size, opset: int) -> Tensor:
    """Return indices into a flat tensor, for indices of one axis each in their last axis."""
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, length in enumerate(shape):
        rows = rows * length + indices_within(indices[..., axis], length, opset)
    return rows


@operator("scatter", versioned=True)
def _scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | None = None,
    *,
    opset: int,
) -> Tensor:
    place = axis_of(axis, data.ndim)
    found = indices_within(indices, data.shape[place], opset).reshape(-1)
    if indices.ndim == 0:
        updates = updates.unsqueeze(place)
    elif indices.ndim > 1:
        updates = updates.flatten(place, place + indices.ndim - 1)
    _require(updates, [*data.shape[:place], found.numel(), *data.shape[place + 1 :]])
    moved = data.movedim(place, 0)
    written = _written(moved.reshape(moved.shape[0], -1), found, updates.movedim(place, 0), mode)
    return written.reshape(moved.shape).movedim(0, place)


@operator("scatter_nd", versioned=True)
def _scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Tensor | None = None,
    *,
    opset: int,
) -> Tensor:
    depth = indices.shape[-1]
    rows = _linear(indices, data.shape[:depth], opset).reshape(-1)
    _require(updates, [*indices.shape[:-1], *data.shape[depth:]])
    count = data.shape[:depth].numel()
    return _written(data.reshape(count, -1), rows, updates, mode).reshape(data.shape)


@operator("scatter_along_axis", versioned=True)
def _scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | None = None,
    *,
    opset: int,
) -> Tensor:
    place = axis_of(axis, data.ndim)
    found = indices_within(indices, data.shape[place], opset)
    _require(indices, [*data.shape[:place], indices.shape[place], *data.shape[place + 1 :]])
    _require(updates, list(indices.shape))
    coordinates = list(torch.meshgrid(*(torch.arange(length) for length in indices.shape), indexing="ij"))
    coordinates[place] = found
    rows = torch.zeros_like(found)
    for length, coordinate in zip(data.shape, coordinates, strict=True):
        rows = rows * length + coordinate
    return _written(data.reshape(-1, 1), rows.reshape(-1), updates, mode).reshape(data.shape)


def _require(tensor: Tensor, shape: list[int]) -> None:
    """Require equal shapes: if only the number of elements matched, some would be written to other places."""
    if list(tensor.shape) != shape:
        raise UndefinedError(f"indices or updates of {tuple(tensor.shape)} for places of {tuple(shape)}")


_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def _written(data: Tensor, rows: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Return a matrix with its rows changed by rows of updates, one for each of `rows`."""
    if updates.dtype != data.dtype or updates.numel() != rows.numel() * data.shape[1]:
        raise UndefinedError(f"updates of {tuple(updates.shape)}, {updates.dtype}, for {data.dtype}")
    values = updates.reshape(rows.numel(), data.shape[1])  # empty, where there are no indices
    if mode == "update":
        if len(set(rows.tolist())) != rows.numel():
            raise UndefinedError("two updates of one place")
        return data.index_copy(0, rows, values)
    if mode in ("add", "sub"):
        return data.index_add(0, rows, values, alpha=1 if mode == "add" else -1)
    everywhere = rows[:, None].expand_as(values)
    if mode in _REDUCTIONS:
        return data.scatter_reduce(0, everywhere, values, _REDUCTIONS[mode])
    if mode == "div" and data.is_floating_point():
        return data.scatter_reduce(0, everywhere, 1 / values, "prod")
    raise UndefinedError(f"mode {mode!r} on {data.dtype}")


@operator("non_zero")
def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).to(torch.int32)


@operator("topk")
def _topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Tensor | bool = True,
    return_indices: Tensor | bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...] | Tensor:
    place, count = axis_of(axis, x.ndim), integer(k)
    count = x.shape[place] if count == -1 else count
    values, indices = torch.topk(x, count, place, largest=not flag(ascending), sorted=True)
    if not flag(return_indices):
        return values
    return values, cast(indices, output_indices_dtype)


@operator("argsort")
def _argsort(
    x: Tensor, axis: Tensor | int = -1, ascending: Tensor | bool = False, output_dtype: str = "int32"
) -> Tensor:
    found = torch.sort(x, dim=axis_of(axis, x.ndim), descending=not flag(ascending), stable=True).indices
    return cast(found, output_dtype)
