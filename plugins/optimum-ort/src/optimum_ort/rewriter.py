"""Changes to a graph's nodes and the weights that they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from optimum_ort.graphs import copy_of, read_names
from optimum_ort.layers import Kept

#: Operators that multiply weights.
PRODUCTS = ("MatMul", "Gemm", "Conv")
# Smaller tensors, biases mostly, would gain nothing.
_LEAST_ELEMENTS = 256
_FLOAT = 1  # onnx.TensorProto.FLOAT


def channel_axis(node: Any) -> int:
    """Return the axis of a weight's output channels."""
    if node.op_type == "Gemm":
        return 0 if any(item.name == "transB" and item.i for item in node.attribute) else 1
    return 1 if node.op_type == "MatMul" else 0


class Rewriter:
    """Replaces weights of a graph: collects the new ones, and inserts them at the end."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._uses = Counter(read_names(self._graph.node))
        self._new: dict[str, Any] = {}
        self._fed: dict[str, Any] = {}
        self._replaced: dict[str, list[Any]] = {}
        self._count = 0

    def weights(self, operators: tuple[str, ...], kept: Kept) -> Iterator[tuple[Any, str, Any]]:
        """Yield node, weight's name and array, for every large float weight of `operators` that is not kept.

        A weight that several nodes share comes once for each. Tables that also serve another purpose are left out.
        """
        from onnx import numpy_helper

        users = Counter(
            name
            for node in self._graph.node
            if node.op_type in operators and not kept.holds(node)
            for name in node.input
        )
        for node in list(self._graph.node):
            if node.op_type not in operators or kept.holds(node):
                continue
            name = node.input[0 if node.op_type == "Gather" else 1]
            tensor = self._constants.get(name)
            if tensor is None or tensor.data_type != _FLOAT or users[name] != self._uses[name]:
                continue
            weight = numpy_helper.to_array(tensor)
            if weight.size >= _LEAST_ELEMENTS and _understood(node, weight):
                yield node, name, weight

    def add(self, *tensors: Any) -> None:
        self._new.update({tensor.name: tensor for tensor in tensors})

    def feed(self, node: Any, maker: Any) -> None:
        """Make `node` read its weight from the output of `maker`."""
        self._fed.setdefault(maker.name, maker)
        node.input[1] = maker.output[0]
        self._count += 1

    def replace(self, node: Any, *nodes: Any) -> None:
        self._replaced[node.name] = list(nodes)
        self._count += 1

    def finish(self) -> int:
        """Write all changes into the graph, and remove weights that are no longer used; return their number."""
        graph = self._graph
        nodes = list(self._fed.values())
        for node in graph.node:
            nodes += self._replaced.get(node.name, [node])
        # Copies: clearing a message takes its parts with it.
        copies = [copy_of(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        used = {*read_names(graph.node), *(value.name for value in graph.output)}
        before = set(self._constants)
        constants = [
            copy_of(t) for t in [*graph.initializer, *self._new.values()] if t.name in used or t.name not in before
        ]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        return self._count


def _understood(node: Any, weight: Any) -> bool:
    """Whether the weight has the shape that our rewriting is written for."""
    if node.op_type == "Conv":
        return bool(weight.ndim > 2)
    if node.op_type == "Gather" and any(item.name == "axis" and item.i != 0 for item in node.attribute):
        return False
    return bool(weight.ndim == 2)
