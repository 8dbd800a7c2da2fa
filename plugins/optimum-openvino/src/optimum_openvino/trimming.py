"""Trimming: computation of only the positions that an output reads.

A classifier reads one position of the last layer (`hidden[:, 0]`), and eager computes all of them. Here the selection
is moved as early as possible: the last layer's queries, sums, normalization and products then run for one position;
keys and values still for all. It is exact: rows of such operations do not depend on each other. In a model with six
layers it removes a seventh of the products with weights, at any precision.

An operation is trimmed where every consumer of its output reads the same position of the same axis, and where it
computes that position from the same position of its inputs, which has to follow from the graph alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.types.arrays import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """One position of one axis, from 0: the first (0) or the last (-1), which both exist on an axis of length 1 too, so
    that broadcast inputs may be cut like everything else.
    """

    axis: int
    position: int


#: Axes of inputs (by their number) that hold the rows of an output's axis; None: unknown.
_Rule = Callable[[Any, int], Mapping[int, int] | None]
# Without one of them, a cut would save less than it costs.
_PRODUCTS = ("MatMul", "ScaledDotProductAttention")


def trim(model: Any) -> int:
    """Cut an `openvino.Model` down, in place, to the positions that its outputs read.

    Returns:
        The number of operations that compute one position from now on; 0: nothing was changed.
    """
    wanted, trimmed = _wanted(model)
    if not any(operation.get_type_name() in _PRODUCTS for operation, _ in trimmed.values()):
        return 0
    cuts: dict[tuple[str, int, _Choice], Any] = {}
    for port, choice in wanted:
        source = port.get_source_output()
        if source.get_node().get_name() in trimmed or port.get_node().get_name() not in trimmed:
            continue
        key = (source.get_node().get_name(), source.get_index(), choice)
        if key not in cuts:
            cuts[key] = _cut(source, choice)
        port.replace_source_output(cuts[key].output(0))
    for operation, choice in trimmed.values():
        if operation.get_type_name() == "Reshape":
            _shorten(operation, choice.axis)
    model.validate_nodes_and_infer_types()
    return len(trimmed)


def _wanted(model: Any) -> tuple[list[tuple[Any, _Choice]], dict[str, tuple[Any, _Choice]]]:
    """Return the inputs of which one position is read, and by name the operations whose output is read at one; outputs
    first.
    """
    wanted: list[tuple[Any, _Choice]] = []
    asked: dict[tuple[str, int], _Choice] = {}
    trimmed: dict[str, tuple[Any, _Choice]] = {}

    def ask(operation: Any, index: int, choice: _Choice) -> None:
        wanted.append((operation.input(index), choice))
        asked[operation.get_name(), index] = choice

    for operation in reversed(model.get_ordered_ops()):
        if (choice := _picked(operation)) is not None:
            ask(operation, 0, choice)
        elif (choice := _shared(operation, asked)) is not None:
            rule = _RULES.get(operation.get_type_name())
            sources = rule(operation, choice.axis) if rule is not None else None
            if sources is None:
                continue
            trimmed[operation.get_name()] = (operation, choice)
            for index, axis in sources.items():
                ask(operation, index, _Choice(axis=axis, position=choice.position))
    return wanted, trimmed


def _picked(operation: Any) -> _Choice | None:
    """Return the part that an operation reads of its first input, where it is the first or last position and there may
    be more.
    """
    if operation.get_type_name() != "Gather" or operation.get_attributes().get("batch_dims"):
        return None
    rank = _rank(operation.input(0))
    position, axis = (_single(operation.input(index)) for index in (1, 2))
    if rank is None or position not in (-1, 0) or axis is None or _is_one(operation.input(0), axis % rank):
        return None
    return _Choice(axis=axis % rank, position=position)


def _shared(operation: Any, asked: Mapping[tuple[str, int], _Choice]) -> _Choice | None:
    """Return the position that all consumers of its one output read, where that is the same."""
    outputs = operation.outputs()
    if len(outputs) != 1:
        return None
    readers = outputs[0].get_target_inputs()
    found = {asked.get((port.get_node().get_name(), port.get_index())) for port in readers}
    return found.pop() if len(found) == 1 else None


# The rows of the inputs that rows of the output are computed from.


def _elementwise(operation: Any, axis: int) -> Mapping[int, int] | None:
    rank = operation.output(0).get_partial_shape().rank
    if rank.is_dynamic or operation.get_attributes().get("auto_broadcast", "numpy") not in ("numpy", "none"):
        return None
    found = {}
    for index, port in enumerate(operation.inputs()):
        own = _rank(port)
        if own is None:
            return None
        place = axis - (rank.get_length() - own)
        if place >= 0 and not _is_one(port, place):
            found[index] = place
    return found


def _over_other_axes(operation: Any, axis: int) -> Mapping[int, int] | None:
    """Map the axis for a normalization or mean, which treats each row by itself where it runs along another axis."""
    rank, axes = _rank(operation.input(0)), _constant(operation.input(1))
    kept = operation.get_attributes().get("keep_dims", True)
    if rank is None or axes is None or not kept or axis in {int(item) % rank for item in axes.reshape(-1)}:
        return None
    return {0: axis}


def _softmax(operation: Any, axis: int) -> Mapping[int, int] | None:
    rank = _rank(operation.input(0))
    return None if rank is None or operation.get_attributes()["axis"] % rank == axis else {0: axis}


def _product(operation: Any, axis: int) -> Mapping[int, int] | None:
    left, right = _rank(operation.input(0)), _rank(operation.input(1))
    if left is None or right is None or min(left, right) < 2 or axis != max(left, right) - 2:
        return None  # a vector's axis is not in the output
    return {0: left - 1 if operation.get_attributes()["transpose_a"] else left - 2}


def _attention(operation: Any, axis: int) -> Mapping[int, int] | None:
    query = _rank(operation.input(0))
    if query is None or axis != query - 2 or operation.get_attributes().get("causal"):
        return None
    found = {0: axis}
    if len(operation.inputs()) > 3:
        mask = _rank(operation.input(3))
        if mask is None:
            return None
        if mask >= 2 and not _is_one(operation.input(3), mask - 2):
            found[3] = mask - 2
    return found


def _transpose(operation: Any, axis: int) -> Mapping[int, int] | None:
    order = _constant(operation.input(1))
    return None if order is None or not order.size else {0: int(order.reshape(-1)[axis])}


def _reshape(operation: Any, axis: int) -> Mapping[int, int] | None:
    """Map the axis for a reshape, which keeps an axis where its pattern says so for that and all before: 0 copies a
    length.
    """
    pattern = _constant(operation.input(1))
    shape = operation.input_value(0).get_partial_shape()
    if pattern is None or shape.rank.is_dynamic or len(shape) <= axis:
        return None
    copies = operation.get_attributes()["special_zero"]
    for place in range(axis + 1):
        length = int(pattern[place])
        is_same = shape[place].is_static and shape[place].get_length() == length
        if not (is_same or (length == 0 and copies)):
            return None
    return {0: axis}


_UNARY = ("Gelu", "Relu", "Tanh", "Sigmoid", "Swish", "Erf", "Exp", "Sqrt", "HSwish", "HSigmoid", "Clamp", "Elu")
_BINARY = ("Add", "Subtract", "Multiply", "Divide", "Power", "Maximum", "Minimum", "SquaredDifference")
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys((*_UNARY, *_BINARY, "Convert", "Negative", "Abs", "SoftPlus", "Mish"), _elementwise),
    **dict.fromkeys(("MVN", "ReduceMean", "ReduceSum"), _over_other_axes),
    "Softmax": _softmax,
    "MatMul": _product,
    "ScaledDotProductAttention": _attention,
    "Transpose": _transpose,
    "Reshape": _reshape,
}


# Changing the graph.


def _cut(source: Any, choice: _Choice) -> Any:
    """Return a slice that leaves one position."""
    from openvino import opset13 as ops

    ends = (0, 1) if choice.position == 0 else (-1, np.iinfo(np.int64).max)
    start, stop = (np.array([end], np.int64) for end in ends)
    made = ops.slice(source, start, stop, np.array([1], np.int64), np.array([choice.axis], np.int64))
    made.set_friendly_name(f"{source.get_node().get_friendly_name()}/trimmed_{choice.axis}")
    return made


def _shorten(operation: Any, axis: int) -> None:
    """Set the reshape's pattern to one position."""
    from openvino import opset13 as ops

    pattern = np.array(_constant(operation.input(1)))
    pattern[axis] = 1
    operation.input(1).replace_source_output(ops.constant(pattern).output(0))


def _constant(port: Any) -> NDArray | None:
    node = port.get_source_output().get_node()
    found: NDArray | None = node.data if node.get_type_name() == "Constant" else None
    return found


def _single(port: Any) -> int | None:
    """Return the value of an input that is one constant number; None for others."""
    value = _constant(port)
    return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _rank(port: Any) -> int | None:
    rank = port.get_source_output().get_partial_shape().rank
    return None if rank.is_dynamic else rank.get_length()


def _is_one(port: Any, axis: int) -> bool:
    length = port.get_source_output().get_partial_shape()[axis]
    return bool(length.is_static) and int(length.get_length()) == 1
