"""Products of one input made one product: queries, keys and values of a layer; both halves of a gated layer.

A step of a decoder is a few hundred products of one row, and each costs some microseconds beside reading its weights:
with weights in 4 bits, separate products of a layer of 576 took 1.3 times as long as one of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimum_ort.graphs import GraphIndex, rewrite
from optimum_ort.layers import Kept

_FLOAT = 1  # onnx.TensorProto.FLOAT


def merge_products(model: Any, kept: Kept | None = None, folder: Path | None = None) -> int:
    """Change an `onnx.ModelProto` in place: products of one input with constant weights become one, which is split.

    Args:
        kept: nodes that are left alone.
        folder: where its external weights lie, if these were not read.

    Returns:
        The number of products that were merged into others.
    """
    graph = model.graph
    index, constants = GraphIndex(graph), {tensor.name: tensor for tensor in graph.initializer}
    groups: dict[tuple[str, int], list[Any]] = {}
    for node in graph.node:
        tensor = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is None or tensor.data_type != _FLOAT or len(tensor.dims) != 2:
            continue
        if len(index.readers[tensor.name]) == 1 and not (kept is not None and kept.holds(node)):
            groups.setdefault((node.input[0], tensor.dims[0]), []).append(node)
    replaced: dict[str, list[Any]] = {}
    weights = []
    for nodes in groups.values():
        if len(nodes) > 1:
            merged, weight, sizes = _merged(nodes, [constants[node.input[1]] for node in nodes], folder)
            weights += [weight, sizes]
            replaced |= {node.output[0]: [] for node in nodes}
            replaced[nodes[0].output[0]] = merged
    if replaced:
        rewrite(graph, [made for node in graph.node for made in replaced.get(node.output[0], [node])], weights)
    return sum(not made for made in replaced.values())


def _merged(nodes: Sequence[Any], tensors: Sequence[Any], folder: Path | None) -> tuple[list[Any], Any, Any]:
    """Return the product and its split, the weight and the sizes of the parts."""
    import numpy as np
    from onnx import helper, numpy_helper

    name = f"{nodes[0].output[0]}.merged"
    weight = np.concatenate([numpy_helper.to_array(tensor, str(folder or "")) for tensor in tensors], axis=1)
    sizes = np.array([tensor.dims[1] for tensor in tensors], np.int64)
    product = helper.make_node("MatMul", [nodes[0].input[0], f"{name}.weight"], [name], name=nodes[0].name)
    parts = [node.output[0] for node in nodes]
    split = helper.make_node("Split", [name, f"{name}.sizes"], parts, name=f"{name}.split", axis=-1)
    made = numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(sizes, f"{name}.sizes")
    return [product, split], *made
