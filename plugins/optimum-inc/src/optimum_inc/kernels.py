"""Layers that run on torch's kernels for integer weights.

The kernels (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`) take integers, so that the compiler cannot fold the
weights back into floats.
"""

from __future__ import annotations

import torch

from optimum_inc.rounding import Rounded

_aten = torch.ops.aten


class Int8Linear(torch.nn.Module):
    """A linear layer with int8 weights, one scale for each output."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        values, scale = _eight_bits(weight)
        self.register_buffer("weight", values.to(torch.int8))
        self.register_buffer("scale", scale.reshape(-1).contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = _aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        made: torch.Tensor = flat.reshape(*x.shape[:-1], flat.shape[-1])
        return made if self.bias is None else made + self.bias


class Int4Linear(torch.nn.Module):
    """A linear layer with 4-bit weights, packed as torch's kernel wants them; `group` inputs share a scale."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, rounded: Rounded, bias: torch.Tensor | None) -> None:
        super().__init__()
        # The kernel computes (value - 8) * scale + shift for values from 0 to 15.
        shift = (8 - rounded.zero) * rounded.scale
        self.group = rounded.values.shape[1] // rounded.scale.shape[1]
        self.register_buffer("weight", _aten._convert_weight_to_int4pack_for_cpu(rounded.values.contiguous(), 1))
        self.register_buffer("scales", torch.stack([rounded.scale, shift], -1).transpose(0, 1).contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        flat = _aten._weight_int4pack_mm_for_cpu(flat, self.weight, self.group, self.scales)
        made: torch.Tensor = flat.reshape(*x.shape[:-1], flat.shape[-1])
        return made if self.bias is None else made + self.bias


class Divided(torch.nn.Module):
    """Divides the inputs of layers whose weights were multiplied by factors; the compiler fuses it with the operation
    before.
    """

    inverse: torch.Tensor

    def __init__(self, factors: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("inverse", 1 / factors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inverse


class Int8Embedding(torch.nn.Module):
    """An embedding table in int8, one scale for each row."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, scale = _eight_bits(weight)
        self.register_buffer("weight", values.to(torch.int8))
        self.register_buffer("scale", scale.reshape(-1, 1).contiguous())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        values, scale = _aten.embedding(self.weight, rows), _aten.embedding(self.scale, rows)
        found: torch.Tensor = values.to(scale.dtype) * scale
        return found


def _eight_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers and scales, one for each row, by Neural Compressor's rounding to the nearest."""
    from neural_compressor.torch.algorithms.weight_only.utility import quant_tensor

    values, scale, _ = quant_tensor(weight.detach().clone(), bits=8, group_size=-1, scheme="sym", return_int=True)
    return values, scale.float()
