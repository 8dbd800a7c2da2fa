"""Graphs of models that were trained with rounding in their products: ranges are part of the graph.

`optimum_inc.qat` exports pairs of quantize and dequantize around products. Weights, which the graph rounds there,
become int8 here.
"""

from __future__ import annotations

from typing import Any

import torch


def has_ranges(program: Any) -> bool:
    """Whether a `torch.export.ExportedProgram` is of a model with ranges of its own."""
    return any(_is(node, "quantize_per_tensor") for node in program.graph.nodes)


def with_stored_weights(program: Any, kept: frozenset[str]) -> tuple[Any, int]:
    """Return the `torch.fx.GraphModule` with weights stored as int8, and the number of products with ranges. Excluded
    layers no longer round.
    """
    module = program.module(check_guards=False)
    count = 0
    for node in list(module.graph.nodes):
        if _is(node, "dequantize_per_tensor", "dequantize_per_channel") and node.name in kept:
            node.replace_all_uses_with(node.args[0].args[0])
        elif _is(node, "quantize_per_channel") and node.name not in kept:
            _store(module, node)
        elif _is(node, "quantize_per_tensor") and node.name not in kept:
            count += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, count


def _is(node: Any, *names: str) -> bool:
    ops = torch.ops.quantized_decomposed
    return node.op == "call_function" and any(node.target is getattr(ops, name).default for name in names)


def _store(module: Any, node: Any) -> None:
    weight, scale, zero, *settings = node.args
    constants = [_value(module, item) for item in (weight, scale, zero)]
    name = f"{node.name}_stored"
    module.register_buffer(name, torch.ops.quantized_decomposed.quantize_per_channel(*constants, *settings))
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.erase_node(node)


def _value(module: Any, node: Any) -> torch.Tensor:
    value: Any = module
    for part in node.target.split("."):
        value = getattr(value, part)
    found: torch.Tensor = value.detach()
    return found
