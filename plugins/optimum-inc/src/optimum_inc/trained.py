"""Graphs of models that were trained with rounding in their products: ranges stand in the graph already.

`optimum_inc.qat` puts `torch.fake_quantize_…` around products. Here each becomes a pair of quantize and dequantize with
the same ranges, which is what runtimes look for, and weights become int8.
"""

from __future__ import annotations

from typing import Any

import torch

_aten = torch.ops.aten
_ACTIVATIONS = _aten.fake_quantize_per_tensor_affine.tensor_qparams
_WEIGHTS = _aten.fake_quantize_per_channel_affine.default


def has_ranges(program: Any) -> bool:
    """Whether a `torch.export.ExportedProgram` is of a model with ranges of its own."""
    return any(node.target is _ACTIVATIONS for node in program.graph.nodes)


def with_pairs(program: Any, kept: frozenset[str]) -> tuple[Any, int]:
    """The `torch.fx.GraphModule` with pairs in place of trained rounding, and how many ranges there were. What is kept
    is no longer rounded."""
    import torchao.quantization.pt2e  # noqa: F401  (registers the operators)

    module = program.module(check_guards=False)
    count = 0
    for node in list(module.graph.nodes):
        if node.target not in (_ACTIVATIONS, _WEIGHTS):
            continue
        if node.name in kept:
            node.replace_all_uses_with(node.args[0])
        elif node.target is _ACTIVATIONS:
            node.replace_all_uses_with(_pair(module, node))
            count += 1
        else:
            node.replace_all_uses_with(_stored(module, node, f"rounded_{node.name}"))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, count


def _pair(module: Any, node: Any) -> Any:
    ops = torch.ops.quantized_decomposed
    x, scale, zero, low, high = node.args
    settings = (float(_value(module, scale)), int(_value(module, zero)), low, high, torch.uint8)
    with module.graph.inserting_before(node):
        rounded = module.graph.call_function(ops.quantize_per_tensor.default, (x, *settings))
        return module.graph.call_function(ops.dequantize_per_tensor.default, (rounded, *settings))


def _stored(module: Any, node: Any, name: str) -> Any:
    ops = torch.ops.quantized_decomposed
    weight, scale, zero, axis, low, high = node.args
    scales, zeros = _value(module, scale), _value(module, zero).to(torch.int64)
    values = ops.quantize_per_channel(_value(module, weight), scales, zeros, axis, low, high, torch.int8)
    for suffix, value in (("values", values), ("scale", scales), ("zero", zeros)):
        module.register_buffer(f"{name}_{suffix}", value)
    with module.graph.inserting_before(node):
        stored = [module.graph.get_attr(f"{name}_{suffix}") for suffix in ("values", "scale", "zero")]
        return module.graph.call_function(
            ops.dequantize_per_channel.default, (*stored, axis, low, high, torch.int8)
        )


def _value(module: Any, node: Any) -> torch.Tensor:
    value: Any = module
    for part in node.target.split("."):
        value = getattr(value, part)
    found: torch.Tensor = value.detach()
    return found
