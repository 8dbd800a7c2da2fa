"""Decompression of weights to floats: the work that Core ML does when it loads a program, or in its kernels.

Before iOS18 the packed bytes are tensors of the program; since then they are packed in the file.
"""

from __future__ import annotations

import torch

from optimum_coreml_interpreter.elementwise import storage_of
from optimum_coreml_interpreter.registry import UndefinedError, axis_of, integers, operator, wide

Tensor = torch.Tensor


@operator("constexpr_cast")
def _cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val.to(storage_of(output_dtype))


@operator("constexpr_affine_dequantize")
def _affine(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    shape = [1] * quantized_data.ndim
    shape[axis_of(axis, quantized_data.ndim)] = -1
    offset, factor = (item.reshape(shape) if item.ndim else item for item in (zero_point, scale))
    return (wide(factor) * (quantized_data.float() - offset.float())).to(scale.dtype)


@operator("constexpr_blockwise_shift_scale")
def _blockwise(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    value = data.float()
    if offset is not None:
        value = value - _spread(offset.float(), data.shape)
    return (value * _spread(wide(scale), data.shape)).to(scale.dtype)


def _spread(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Return one value for each block, repeated over the block."""
    if blocks.ndim != len(shape):
        raise UndefinedError(f"blocks of {blocks.ndim} axes for {len(shape)}")
    for axis, length in enumerate(shape):
        if length % blocks.shape[axis]:
            raise UndefinedError(f"{blocks.shape[axis]} blocks in an axis of {length}")
        blocks = blocks.repeat_interleave(length // blocks.shape[axis], axis)
    return blocks


@operator("constexpr_lut_to_dense", versioned=True)
def _from_table(
    indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None, *, opset: int
) -> Tensor:
    if opset < 8:
        assert shape is not None
        sizes = integers(shape)
        bits = (lut.numel() - 1).bit_length()
        places = _unpacked(indices, bits)[: torch.Size(sizes).numel()]
        return lut[places].reshape(sizes)
    return _looked_up(indices, lut, vector_axis)


def _looked_up(indices: Tensor, lut: Tensor, vector_axis: Tensor | None) -> Tensor:
    """Return the table entries at the indices. `lut` has a group axis for each axis of the indices, an axis of entries,
    and one of the numbers of an entry.
    """
    rank, entries, width = indices.ndim, lut.shape[-2], lut.shape[-1]
    rows = torch.zeros([1] * rank, dtype=torch.int64)
    for axis in range(rank):
        groups = lut.shape[axis]
        if indices.shape[axis] % groups:
            raise UndefinedError(f"{groups} tables in an axis of {indices.shape[axis]}")
        which = torch.arange(groups).repeat_interleave(indices.shape[axis] // groups)
        rows = rows * groups + which.reshape([-1 if place == axis else 1 for place in range(rank)])
    found = lut.reshape(-1, width)[rows * entries + indices.long()]
    if width == 1:
        return found.squeeze(-1)
    if vector_axis is None:
        raise UndefinedError("vectors without an axis")
    place = axis_of(vector_axis, rank)
    return found.movedim(-1, place + 1).flatten(place, place + 1)


def _unpacked(data: Tensor, bits: int) -> Tensor:
    """Return numbers of `bits` each, unpacked from bytes from the lowest bit up."""
    ones = (data.long()[:, None] >> torch.arange(8)) & 1
    flat = ones.reshape(-1)
    flat = flat[: flat.numel() // bits * bits].reshape(-1, bits)
    return (flat << torch.arange(bits)).sum(1)


@operator("constexpr_sparse_to_dense", versioned=True)
def _from_sparse(nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None, *, opset: int) -> Tensor:
    if opset < 8:
        assert shape is not None
        sizes = integers(shape)
        mask = _unpacked(mask, 1)[: torch.Size(sizes).numel()].reshape(sizes)
    return _filled(nonzero_data, mask)


def _filled(nonzero: Tensor, mask: Tensor) -> Tensor:
    kept = mask != 0
    if int(kept.sum()) != nonzero.numel():
        raise UndefinedError(f"{nonzero.numel()} numbers for {int(kept.sum())} places")
    result = torch.zeros(mask.shape, dtype=nonzero.dtype)
    result[kept] = nonzero.reshape(-1)
    return result


@operator("constexpr_lut_to_sparse")
def _sparse_from_table(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = _looked_up(_filled(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        assert vector_axis is not None
        mask = mask.repeat_interleave(lut.shape[-1], axis_of(vector_axis, mask.ndim))
    return mask, dense[mask != 0]


@operator("constexpr_sparse_blockwise_shift_scale")
def _sparse_blockwise(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return data_mask, _blockwise(_filled(nonzero_data, data_mask), scale, offset)[data_mask != 0]
