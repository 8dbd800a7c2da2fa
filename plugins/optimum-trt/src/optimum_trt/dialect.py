"""Rewriting of constructs that ONNX Runtime's quantizers write and TensorRT cannot read, into ONNX of equal values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FLOAT, _INT8, _INT32 = 1, 3, 6  # onnx.TensorProto


def is_quantized(graph: Any) -> bool:
    """Whether a model has quantized nodes to rewrite."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node)


def rewrite(model: Any) -> Any:
    """Rewrite `model`, an `onnx.ModelProto` with its weights, in place: nodes sorted, biases in fp32, tables
    dequantized.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes = list(_in_order(graph, constants))
    del graph.node[:]
    graph.node.extend(nodes)
    _fold_biases(graph, constants)
    _dequantize_tables(graph, constants)
    return model


def _in_order(graph: Any, constants: dict[str, Any]) -> Iterator[Any]:
    """Yield every node after those that it reads from, otherwise in order; quantizers append theirs at the end."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    nodes, done = list(graph.node), set()
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            index = stack[-1]
            waits = [] if index in done else [makers[name] for name in _reads(nodes[index]) if name in makers]
            missing = [other for other in waits if other not in done and other != index]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                yield nodes[index]


def _reads(node: Any) -> Iterator[str]:
    """Yield the names that a node reads, those within its subgraphs included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)


def _fold_biases(graph: Any, constants: dict[str, Any]) -> None:
    """Convert biases of 32-bit integers, which TensorRT does not dequantize, to fp32."""
    import numpy as np
    from onnx import numpy_helper

    for node in list(graph.node):
        if node.op_type != "DequantizeLinear":
            continue
        values, scale, *rest = (constants.get(name) for name in node.input)
        if values is None or scale is None or values.data_type != _INT32:
            continue
        values, scale = numpy_helper.to_array(values), numpy_helper.to_array(scale)
        zero = numpy_helper.to_array(rest[0]) if rest and rest[0] is not None else np.int32(0)
        folded = ((values - zero).astype(np.float32) * scale).astype(scale.dtype)
        graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(folded, node.output[0]))


def _dequantize_tables(graph: Any, constants: dict[str, Any]) -> None:
    """Rewrite lookups of integer rows that are cast afterwards: TensorRT dequantizes them first, by a scale of 1."""
    import numpy as np
    from onnx import helper, numpy_helper

    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    leaving = {value.name for value in graph.output}
    for node in list(graph.node):
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        looked_up = users.get(node.output[0], []) if table is not None else []
        casts = all(user.op_type == "Cast" for user in looked_up) and node.output[0] not in leaving
        if table is None or table.data_type != _INT8 or not looked_up or not casts:
            continue
        name = f"{table.name}__float"
        if name not in constants:
            one = numpy_helper.from_array(np.ones((), np.float32), f"{table.name}__one")
            graph.initializer.append(one)
            constants[name] = one
            made = helper.make_node("DequantizeLinear", [table.name, one.name], [name], name=f"{table.name}__float")
            graph.node.insert(0, made)
        node.input[0] = name
