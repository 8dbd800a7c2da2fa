"""Matrix products with constant weights in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

#: The kernel for 4 bits takes outputs in blocks of this size. Layers with fewer stay in float: their weights are small
#: beside the others, and the compiler writes scales of so few numbers into the code, where no kernel reads them.
BLOCK = 16

_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A matrix product with constant weights: the node, the position of its input argument, its weights (outputs by
    inputs) and bias.
    """

    node: Any
    argument: int
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def x(self) -> Any:
        """The input node, which changes when an earlier product was replaced."""
        return self.node.args[self.argument]


def products_of(module: Any) -> Iterator[Product]:
    """Yield the products of a `torch.fx.GraphModule` that can be quantized, in its order."""
    for node in module.graph.nodes:
        if node.target is _aten.linear.default:
            argument, weight, bias = 0, node.args[1], (*node.args, None)[2]
        elif node.target is _aten.addmm.default:  # transformers' Conv1D
            argument, weight, bias = 1, node.args[2], node.args[0]
        else:
            continue
        values = constant(module, weight)
        constant_bias = None if bias is None else constant(module, bias)
        if values is not None and values.ndim == 2 and (bias is None or constant_bias is not None):
            values = values.t().contiguous() if argument else values
            if values.shape[0] < BLOCK:
                continue
            yield Product(node=node, argument=argument, weight=values, bias=constant_bias)


def constant(module: Any, node: Any) -> torch.Tensor | None:
    """Return the tensor that a node of the graph stands for, where it is a weight in 32-bit floats."""
    if getattr(node, "op", "") != "get_attr":
        return None
    value: Any = module
    for part in node.target.split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) and value.dtype is torch.float32 else None
