"""Division of whole numbers in ONNX files, written so that no runtime divides the least number by -1.

The quotient does not fit into the type. A runtime that uses the processor's division is ended by it
(SIGFPE), and one call would end a server. So where a divisor is -1, the graph divides by 1 and changes the sign; a
remainder is 0 either way. Divisions whose divisor cannot be -1 stay as they are. Division by zero is left to the
runtime, which reports it as an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.models.backends.onnx_files.surgery import branches_of, replace_nodes

if TYPE_CHECKING:
    from optimum_core.types.arrays import NDArray

#: Tensors of fewer bytes than this are left in the copy whose types are inferred.
_SMALL = 1024
#: The first opset that has `Where`.
_WHERE = 9
#: Operators whose output is never negative where their inputs are not.
_KEEPING = frozenset({"Add", "Cast", "Concat", "Gather", "Identity", "Mul", "Reshape", "Slice", "Squeeze", "Unsqueeze"})


def guard_divisions(path: Path) -> None:
    """Rewrite those divisions of an ONNX file that could end a process. A file without any is left as it is, and
    so is one below opset 9, which has no `Where`."""
    import onnx
    import onnx.inliner

    proto = onnx.load(path, load_external_data=False)
    if any(_is_division(node) for function in proto.functions for node in _all_nodes(function)):
        proto = onnx.inliner.inline_local_functions(proto)
    if not any(map(_is_division, _all_nodes(proto.graph))) or _opset(proto) < _WHERE:
        return
    if _guard(proto.graph, _inferred(proto), {}, {}):
        onnx.save(proto, path)


def _guard(graph: Any, inferred: Any, types: Mapping[str, int], around: Mapping[str, Any]) -> bool:
    """Rewrite the divisions of a graph and of its branches; return whether there were any.

    Args:
        inferred: the same graph with the types of its values.
        types: element types of the values of the graphs around it.
        around: what these define, by name: constants, and nodes by their outputs.
    """
    types = {**types, **_own_types(inferred)}
    known = {**around, **{item.name: item for item in graph.initializer}}
    known |= {name: node for node in graph.node for name in node.output}
    found = {
        index: list(_guarded(node, types[node.input[1]]))
        for index, node in enumerate(graph.node)
        if _may_trap(node, types, known)
    }
    pairs = zip(_branches(graph), _branches(inferred), strict=True)
    inner = [_guard(branch, with_types, types, known) for branch, with_types in pairs]
    if found:
        replace_nodes(graph, [made for index, node in enumerate(graph.node) for made in found.get(index, [node])])
    return bool(found) or any(inner)


def _may_trap(node: Any, types: Mapping[str, int], known: Mapping[str, Any]) -> bool:
    """Whether a node divides whole numbers of 32 or 64 bits by something that may be -1, and no
    operand is known to be never negative."""
    from onnx import TensorProto

    if not _is_division(node) or types.get(node.input[1]) not in (TensorProto.INT32, TensorProto.INT64):
        return False
    if any(attribute.name == "fmod" and attribute.i for attribute in node.attribute):
        return False  # computed in floats
    return not any(_is_never_negative(name, known) for name in node.input) and _may_be_minus_one(node.input[1], known)


def _is_never_negative(name: str, known: Mapping[str, Any], depth: int = 8) -> bool:
    """Whether a value is made of lengths and constants at or above zero alone."""
    if (constant := _constant(name, known)) is not None:
        return bool((constant >= 0).all())
    node = known.get(name)
    if node is None or not depth or not hasattr(node, "op_type"):
        return False
    if node.op_type in ("Shape", "Size"):
        return True
    sources = node.input if node.op_type in ("Add", "Concat", "Mul") else node.input[:1]
    return node.op_type in _KEEPING and all(_is_never_negative(item, known, depth - 1) for item in sources)


def _may_be_minus_one(name: str, known: Mapping[str, Any]) -> bool:
    constant = _constant(name, known)
    return constant is None or bool((constant == -1).any())


def _constant(name: str, known: Mapping[str, Any]) -> NDArray | None:
    """Return a constant's values; None: it is none, or lies in another file."""
    from onnx import TensorProto, numpy_helper

    found: Any = known.get(name)
    if getattr(found, "op_type", "") == "Constant":
        found = next((item.t for item in found.attribute if item.name == "value"), None)
    if not isinstance(found, TensorProto) or found.data_location == TensorProto.EXTERNAL:
        return None
    values: NDArray = numpy_helper.to_array(found)
    return values


def _guarded(node: Any, kind: int) -> Iterator[Any]:
    """Yield nodes that make what a division of this element type makes, and never divide by -1."""
    from onnx import helper

    dividend, divisor = node.input
    (result,) = node.output
    own = f"{result}.divisor"
    for name, value in (("one", 1), ("minus_one", -1)):
        constant = helper.make_tensor(name, kind, [], [value])
        yield helper.make_node("Constant", [], [f"{own}.{name}"], value=constant)
    yield helper.make_node("Equal", [divisor, f"{own}.minus_one"], [f"{own}.is_minus_one"])
    yield helper.make_node("Where", [f"{own}.is_minus_one", f"{own}.one", divisor], [own])
    if node.op_type == "Mod":
        yield helper.make_node("Mod", [dividend, own], [result])
        return
    yield helper.make_node("Div", [dividend, own], [f"{own}.quotient"])
    yield helper.make_node("Neg", [f"{own}.quotient"], [f"{own}.negated"])
    yield helper.make_node("Where", [f"{own}.is_minus_one", f"{own}.negated", f"{own}.quotient"], [result])


def _is_division(node: Any) -> bool:
    return node.op_type in ("Div", "Mod") and node.domain in ("", "ai.onnx") and len(node.input) == 2


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for branch in branches_of(node):
            yield from _all_nodes(branch)


def _branches(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield from branches_of(node)


def _opset(proto: Any) -> int:
    return next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), 0)


def _inferred(proto: Any) -> Any:
    """Return the graph with the types of its values, and without its large weights."""
    import onnx

    graph = proto.graph
    weights = [
        item
        if item.ByteSize() <= _SMALL
        else onnx.TensorProto(name=item.name, data_type=item.data_type, dims=item.dims)  # its values are not needed
        for item in graph.initializer
    ]
    bare = onnx.ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        graph=onnx.GraphProto(
            name=graph.name, node=graph.node, input=graph.input, output=graph.output, value_info=graph.value_info,
            initializer=weights,
        ),
    )  # fmt: skip
    return onnx.shape_inference.infer_shapes(bare).graph


def _own_types(graph: Any) -> dict[str, int]:
    """Return the element types of a graph's values by name, those of its branches left out."""
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**found, **{item.name: item.data_type for item in graph.initializer}}
