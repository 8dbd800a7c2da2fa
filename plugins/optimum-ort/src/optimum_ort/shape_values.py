"""Shapes as an ONNX graph computes them: numbers and names of axes, followed through the nodes that make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_ort.graphs import GraphIndex, attribute, copy_of

#: A length: a number, the name of an axis, or None where it is unknown.
Dim = int | str | None
# Larger constants are weights, whose values no shape depends on.
SMALL = 64
_INTEGERS = (6, 7)  # onnx.TensorProto.INT32, INT64


@dataclass(frozen=True, slots=True)
class ShapeValue:
    """The value of a tensor of whole numbers with one axis or none."""

    sizes: tuple[Dim, ...]
    is_vector: bool


def inferred_shapes(model: Any, known: Mapping[str, Sequence[Dim]]) -> dict[str, tuple[Dim, ...]]:
    """Return the shapes of the values of an `onnx.ModelProto`, as far as onnx infers them.

    Args:
        known: shapes of values that are made by other operators than onnx's own.
    """
    import onnx
    from onnx import helper

    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    shapes: dict[str, tuple[Dim, ...]] = {}
    for tensor in model.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        if math.prod(tensor.dims) <= SMALL:
            bare.graph.initializer.append(copy_of(tensor))
        else:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for name, shape in known.items():
        bare.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)))
    graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(map(_dim, value.type.tensor_type.shape.dim))
    return shapes


def _dim(axis: Any) -> Dim:
    if axis.HasField("dim_value"):
        return int(axis.dim_value)
    # Names that inference makes up are unique to a value, and say nothing of others.
    return str(axis.dim_param) if axis.dim_param else None


class ShapeValues:
    """The values of shapes and parts of them in one graph."""

    def __init__(self, index: GraphIndex, shapes: Mapping[str, Sequence[Dim]]) -> None:
        self._index, self._shapes = index, shapes
        self._found: dict[str, ShapeValue | None] = {}

    def of(self, name: str) -> ShapeValue | None:
        """Return what is known of a value; None: it is no shape, or unknown."""
        if name not in self._found:
            self._found[name] = None
            self._found[name] = self._evaluated(name)
        return self._found[name]

    def _evaluated(self, name: str) -> ShapeValue | None:
        node = self._index.maker.get(name)
        if node is None or node.op_type == "Constant":
            return self._constant(name)
        reader = _READERS.get(node.op_type)
        if node.op_type == "Shape":
            return self._shape(node)
        parts = [self.of(part) for part in node.input] if reader is not None else []
        if reader is None or any(part is None for part in parts):
            return None
        return reader(node, [part for part in parts if part is not None])

    def _constant(self, name: str) -> ShapeValue | None:
        array = self._index.array(name) if self._index.is_small_constant(name, SMALL) else None
        if array is None or array.dtype.name != "int64" or array.ndim > 1:
            return None
        return ShapeValue(tuple(map(int, array.reshape(-1))), array.ndim == 1)

    def _shape(self, node: Any) -> ShapeValue | None:
        shape = self._shapes.get(node.input[0])
        if shape is None:
            return None
        return ShapeValue(tuple(shape[slice(attribute(node, "start", 0), attribute(node, "end"))]), True)


def _numbers(value: ShapeValue) -> list[int] | None:
    numbers = [size for size in value.sizes if isinstance(size, int)]
    return numbers if len(numbers) == len(value.sizes) else None


def _gather(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    places = _numbers(parts[1])
    if places is None or not parts[0].is_vector or attribute(node, "axis", 0) != 0:
        return None
    return ShapeValue(tuple(parts[0].sizes[place] for place in places), parts[1].is_vector)


def _concat(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    return ShapeValue(tuple(size for part in parts for size in part.sizes), True)


def _vector(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    axes = parts[1].sizes if len(parts) > 1 else attribute(node, "axes", ())
    return None if parts[0].is_vector or len(axes) != 1 else ShapeValue(parts[0].sizes, True)


def _scalar(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    return ShapeValue(parts[0].sizes, False) if len(parts[0].sizes) == 1 else None


def _cast(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    return parts[0] if attribute(node, "to") == _INTEGERS[1] else None


def _slice(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
    start, end, step = (_numbers(parts[at]) if at < len(parts) else [1] for at in (1, 2, 4))
    if not parts[0].is_vector or start is None or end is None or step != [1] or len(start) != 1:
        return None
    return ShapeValue(parts[0].sizes[start[0] : end[0]], True)


def _arithmetic(of_two: Callable[[int, int], int]) -> Callable[[Any, Sequence[ShapeValue]], ShapeValue | None]:
    def read(node: Any, parts: Sequence[ShapeValue]) -> ShapeValue | None:
        left, right = map(_numbers, parts)
        if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        if node.op_type == "Div" and not all(right):
            return None
        count = max(len(left), len(right))
        left, right = (numbers * count if len(numbers) == 1 else numbers for numbers in (left, right))
        made = tuple(of_two(one, other) for one, other in zip(left, right, strict=True))
        return ShapeValue(made, any(part.is_vector for part in parts))

    return read


_READERS: Mapping[str, Callable[[Any, Sequence[ShapeValue]], ShapeValue | None]] = {
    "Add": _arithmetic(lambda one, other: one + other),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(lambda one, other: int(one / other)),  # ONNX rounds towards zero
    "Gather": _gather,
    "Identity": lambda node, parts: parts[0],
    "Mul": _arithmetic(lambda one, other: one * other),
    "Slice": _slice,
    "Squeeze": _scalar,
    "Sub": _arithmetic(lambda one, other: one - other),
    "Unsqueeze": _vector,
}
