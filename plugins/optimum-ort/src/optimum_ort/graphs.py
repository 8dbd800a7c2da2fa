"""Reading of an ONNX graph: makers and readers of values, and what of them is constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_ARITHMETIC: Mapping[str, Callable[..., float]] = {
    "Cast": lambda number: number,
    "Div": lambda number, other: number / other,
    "Mul": lambda number, other: number * other,
    "Sqrt": math.sqrt,
    "Squeeze": lambda number, *axes: number,
}


class GraphIndex:
    """The nodes of a graph by the values that they make and read."""

    def __init__(self, graph: Any) -> None:
        self.maker: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for name in node.output:
                self.maker[name] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def made_by(self, name: str, *operators: str) -> Any:
        """Return the node that makes a value, if it is one of these operators; else None."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type in operators else None

    def is_small_constant(self, name: str, most: int) -> bool:
        """Whether a value is a constant with at most so many elements."""
        tensor, node = self._constants.get(name), self.made_by(name, "Constant")
        if tensor is None and node is not None and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
        return tensor is not None and math.prod(tensor.dims) <= most

    def array(self, name: str) -> Any:
        """Return the array of a constant; None: the value is computed, is an input, or lies in another file."""
        from onnx import numpy_helper
        from onnx.external_data_helper import uses_external_data

        if name in self._constants:
            tensor = self._constants[name]
            # Without its folder, it would be looked for in the working directory.
            return None if uses_external_data(tensor) else numpy_helper.to_array(tensor)
        node = self.maker.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return numpy_helper.to_array(node.attribute[0].t) if node.attribute[0].name == "value" else None
        return self.array(node.input[0]) if node.op_type == "Identity" else None

    def scalar(self, name: str, last: int | None = None) -> float | None:
        """Return a constant with one element, or a number that is computed from the last length of a shape.

        Args:
            last: that length; None: it is unknown.
        """
        array = self.array(name)
        if array is not None:
            return float(array.reshape(())) if array.size == 1 else None
        node = self.maker.get(name)
        if node is None or last is None:
            return None
        if self._is_last(node):
            return float(last)
        if node.op_type not in _ARITHMETIC:
            return None
        numbers = [self.scalar(part, last) for part in node.input]
        return None if None in numbers else float(_ARITHMETIC[node.op_type](*numbers))

    def _is_last(self, node: Any) -> bool:
        """Whether a node takes the last length of a shape: shape[-1:] or shape[-1]."""
        if node.op_type not in ("Slice", "Gather") or self.made_by(node.input[0], "Shape") is None:
            return False
        return self.scalar(node.input[1]) == -1

    def length(self, shape: str, axis: int) -> int | None:
        """Return one length of a computed shape, if it is constant."""
        array = self.array(shape)
        if array is not None:
            return int(array.reshape(-1)[axis]) if array.size > axis else None
        node = self.maker.get(shape)
        if node is None:
            return None
        if node.op_type == "Concat" and len(node.input) > axis:
            one = self.array(node.input[axis])
            return int(one.reshape(())) if one is not None and one.size == 1 else None
        # An exporter may guard a shape against -1: Where(shape == -1, 1, shape).
        inner = {"Where": 2, "Reshape": 0, "Identity": 0, "Cast": 0}.get(node.op_type)
        return self.length(node.input[inner], axis) if inner is not None else None


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return a number or list among the attributes of a node."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            found = helper.get_attribute_value(item)
            return list(found) if hasattr(found, "__iter__") and not isinstance(found, bytes) else found
    return default


def needed_nodes(nodes: Iterable[Any], outputs: Iterable[str]) -> list[Any]:
    """Return the nodes on which the outputs depend, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if not wanted.isdisjoint(node.output):
            kept.append(node)
            wanted.update(read_names([node]))
    return kept[::-1]


def read_names(nodes: Iterable[Any]) -> Iterator[str]:
    """Yield the names that nodes read, those of branches and loops included."""
    for node in nodes:
        yield from node.input
        yield from captured_names(node)


def captured_names(node: Any) -> Iterator[str]:
    """Yield the names that the branches and loops of a node read."""
    for item in node.attribute:
        for inner in (item.g, *item.graphs):
            yield from read_names(inner.node)
            yield from (value.name for value in inner.output)


def rewrite(graph: Any, nodes: Iterable[Any], constants: Iterable[Any] = ()) -> None:
    """Give a graph these nodes, as far as its outputs depend on them, and further constants; constants that nothing
    reads are dropped.
    """
    outputs = [value.name for value in graph.output]
    # Copies: clearing a message takes its parts with it.
    kept = [copy_of(node) for node in needed_nodes(nodes, outputs)]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    read = {*read_names(graph.node), *outputs}
    for at in reversed(range(len(graph.initializer))):
        if graph.initializer[at].name not in read:
            del graph.initializer[at]


def copy_of(message: Any) -> Any:
    """Return a copy of a message of protobuf."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
