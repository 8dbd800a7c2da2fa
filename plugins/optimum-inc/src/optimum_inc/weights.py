"""Weights in fewer bits, in a graph: layers and tables whose weights are stored as integers.

Kernels that take integer weights are torch's own (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`), so that the
compiler cannot fold the weights back into floats. Rounding to the nearest is Neural Compressor's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from optimum_core.errors import OptionError
from optimum_core.types import QuantizeConfig
from optimum_inc.layers import scope

GROUP_SIZES = (32, 64, 128, 256)
#: Weights that share a scale where nobody says; smaller where that does not divide a layer's channels.
GROUP_SIZE = 64
# The kernel for 4 bits takes outputs in blocks. Layers with fewer outputs than that stay float: their weights are
# nothing beside the others, and the compiler writes scales of so few numbers into the code, where no kernel reads them.
_BLOCK = 16
# Smaller tables are not worth it.
_LEAST_TABLE = 4096

_aten = torch.ops.aten


class Int8Linear(torch.nn.Module):
    """A linear layer with int8 weights, one scale for each output."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        values, scale, _ = _rounded(weight, 8, -1, symmetric=True)
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

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, group: int, *, symmetric: bool) -> None:
        super().__init__()
        values, scale, zero = _rounded(weight, 4, group, symmetric=symmetric)
        # The kernel computes (value - 8) * scale + zero of values from 0 to 15.
        values = values.to(torch.int32) + (8 if symmetric else 0)
        shift = torch.zeros_like(scale) if symmetric else (8 - zero.to(scale.dtype)) * scale
        self.group = group
        self.register_buffer("weight", _aten._convert_weight_to_int4pack_for_cpu(values.contiguous(), 1))
        self.register_buffer("scales", torch.stack([scale, shift], -1).transpose(0, 1).contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        flat = _aten._weight_int4pack_mm_for_cpu(flat, self.weight, self.group, self.scales)
        made: torch.Tensor = flat.reshape(*x.shape[:-1], flat.shape[-1])
        return made if self.bias is None else made + self.bias


class Int8Embedding(torch.nn.Module):
    """A table of int8, one scale for each row."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, scale, _ = _rounded(weight, 8, -1, symmetric=True)
        self.register_buffer("weight", values.to(torch.int8))
        self.register_buffer("scale", scale.reshape(-1, 1).contiguous())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        values, scale = _aten.embedding(self.weight, rows), _aten.embedding(self.scale, rows)
        found: torch.Tensor = values.to(scale.dtype) * scale
        return found


def _rounded(
    weight: torch.Tensor, bits: int, group: int, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integers, scales and zero points by Neural Compressor's rounding to the nearest."""
    from neural_compressor.torch.algorithms.weight_only.utility import quant_tensor

    scheme = "sym" if symmetric else "asym"
    values, scale, zero = quant_tensor(
        weight.detach().clone(), bits=bits, group_size=group, scheme=scheme, return_int=True
    )
    return values, scale.float(), zero


@dataclass(frozen=True, kw_only=True, slots=True)
class _Product:
    """A matrix product with constant weights: the node, what goes in, its weights (outputs by inputs) and bias."""

    node: Any
    x: Any
    weight: torch.Tensor
    bias: torch.Tensor | None


def quantize_embeddings(module: Any, kept: frozenset[str]) -> int:
    """Store the tables of a `torch.fx.GraphModule` as int8; how many there were."""
    count = 0
    for node in list(module.graph.nodes):
        if node.target is not _aten.embedding.default or node.name in kept:
            continue
        weight = _constant(module, node.args[0])
        if weight is None or weight.numel() < _LEAST_TABLE:
            continue
        _replace(module, node, Int8Embedding(weight), node.args[1], f"table_{count}")
        count += 1
    return _finished(module, count)


def quantize_linears(module: Any, config: QuantizeConfig, kept: frozenset[str], who: str) -> dict[str, int]:
    """Store the weights of the products of a `torch.fx.GraphModule` in 8 or 4 bits; how many got which.

    Layers whose shape the kernel for 4 bits does not take get 8.

    Raises:
        OptionError: a group size that was stated does not divide a layer's channels.
    """
    counts = {"int8": 0, "int4": 0}
    products = [found for found in _products(module) if found.node.name not in kept]
    four = _with_four_bits(products, config)
    for index, found in enumerate(products):
        group = _group(found, config, who) if index in four else None
        if group is None:
            layer: Any = Int8Linear(found.weight, found.bias)
        else:
            layer = Int4Linear(found.weight, found.bias, group, symmetric=config.symmetric is not False)
        counts["int8" if group is None else "int4"] += 1
        _replace(module, found.node, layer, found.x, f"product_{index}")
    _finished(module, len(products))
    return counts


def _with_four_bits(products: list[_Product], config: QuantizeConfig) -> set[int]:
    """The largest layers, until they make up the ratio that was asked for; the last layer loses most, and keeps 8."""
    if config.weights != "int4":
        return set()
    order = sorted(range(len(products) - 1), key=lambda index: -products[index].weight.numel())
    return set(order[: round(len(order) * (config.ratio or 1.0))])


def _group(found: _Product, config: QuantizeConfig, who: str) -> int | None:
    outputs, channels = found.weight.shape
    if config.group_size is not None:
        if channels % config.group_size:
            why = f"field 'group_size' cannot be {config.group_size}: {scope(found.node)!r} has {channels} channels"
            raise OptionError(who, why, "use a divisor, or leave it out")
        sizes: tuple[int, ...] = (config.group_size,)
    else:
        sizes = tuple(size for size in reversed(GROUP_SIZES) if size <= GROUP_SIZE)
    fitting = [size for size in sizes if channels % size == 0 and outputs % _BLOCK == 0]
    return fitting[0] if fitting else None


def _products(module: Any) -> Iterator[_Product]:
    for node in module.graph.nodes:
        if node.target is _aten.linear.default:
            x, weight, bias = (*node.args, None)[:3]
            transposed = False
        elif node.target is _aten.addmm.default:  # transformers' Conv1D
            bias, x, weight = node.args[:3]
            transposed = True
        else:
            continue
        values = _constant(module, weight)
        constant_bias = None if bias is None else _constant(module, bias)
        if values is not None and values.ndim == 2 and (bias is None or constant_bias is not None):
            values = values.t().contiguous() if transposed else values
            if values.shape[0] < _BLOCK:
                continue
            yield _Product(node=node, x=x, weight=values, bias=constant_bias)


def _constant(module: Any, node: Any) -> torch.Tensor | None:
    """The tensor that a node of the graph stands for, where it is a weight in 32-bit floats."""
    if getattr(node, "op", "") != "get_attr":
        return None
    value: Any = module
    for part in node.target.split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) and value.dtype is torch.float32 else None


def _replace(module: Any, node: Any, layer: torch.nn.Module, x: Any, name: str) -> None:
    module.add_submodule(name, layer)
    with module.graph.inserting_before(node):
        made = module.graph.call_module(name, (x,))
    node.replace_all_uses_with(made)
    module.graph.erase_node(node)


def _finished(module: Any, count: int) -> int:
    module.graph.eliminate_dead_code()
    module.recompile()
    return count
