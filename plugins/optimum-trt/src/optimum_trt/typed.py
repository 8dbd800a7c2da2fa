"""Conversion of ONNX in fp32 to fp16 or bf16, by types alone: a strongly typed network computes in the types of its
file.

Every operator whose schema allows it gets the narrow type; a Cast is inserted at each boundary.
Inputs and outputs of the model keep their types. Four kinds of operators stay in fp32:

- those whose schema does not take the narrow type: scales of Resize, scales of QuantizeLinear before opset 19, …;
- squares, means and roots, which overflow or lose the small parts: layer norms written out, RMS norms;
- values that become an angle or an integer, with all nodes that lead only there: positions above 2048 have no exact
  value in fp16, and a bucket that is rounded to its neighbour is another bucket;
- operators of other domains, whose schemas are unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimum_core.errors import ExportError

#: Precisions that a model can be converted to.
NARROW = ("fp16", "bf16")

_WIDE = frozenset({"Exp", "Log", "Pow", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum", "Sqrt"})
_EXACT = frozenset({"Ceil", "Cos", "Floor", "Round", "Sin"})
_FLOAT = 1  # onnx.TensorProto.FLOAT
_NOT_INTEGERS = frozenset({1, 10, 11, 16})
_TYPED_BY = {"Cast": "to", "Bernoulli": "dtype", "EyeLike": "dtype", "RandomNormal": "dtype", "RandomUniform": "dtype"}
# Convolutions allow bf16 in their schema only since that opset; the parser checks no schema.
_BF16_OPSET = 22
_GREATEST = {"float16": 65504.0, "bfloat16": (2 - 2**-7) * 2.0**127}
# A mask becomes this share of the largest number: adding a score to it stays finite.
_NEVER = 0.875


def convert(path: Path, precision: str, who: str) -> Any:
    """Return the `onnx.ModelProto` at `path` with its arithmetic in "fp16" or "bf16".

    Raises:
        ExportError: its types cannot be inferred.
    """
    import onnx

    bare = onnx.load(path, load_external_data=False)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise _unknown(who, precision, str(error)) from error
    model = onnx.load(path)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    target = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16
    types = _Types(target, opset if precision == "fp16" else max(opset, _BF16_OPSET))
    try:
        _Graph(model.graph, inferred.graph, types, None).rewrite()
    except KeyError as error:
        raise _unknown(who, precision, f"nothing is known of {error}") from error
    return model


class _Types:
    """The operators that support the narrow type, according to their schemas."""

    def __init__(self, target: int, opset: int) -> None:
        from onnx import defs

        self.target = target
        self._opset = opset
        self._schema = defs.get_schema
        self._unknown = defs.SchemaError
        self._word = "tensor(float16)" if target == 10 else "tensor(bfloat16)"
        self._known: dict[tuple[str, str], Any] = {}

    def schema(self, node: Any) -> Any:
        """Return the operator's schema, or None where there is none."""
        key = node.op_type, node.domain
        if key not in self._known:
            try:
                self._known[key] = self._schema(node.op_type, self._opset, node.domain)
            except self._unknown:
                self._known[key] = None
        return self._known[key]

    def fits(self, node: Any, parameters: str, index: int) -> bool:
        """Whether one of a node's "inputs" or "outputs" may have the narrow type."""
        schema = self.schema(node)
        if schema is None:
            return False
        formal = getattr(schema, parameters)
        if not formal:
            return False
        name = formal[min(index, len(formal) - 1)].type_str
        allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
        return self._word in allowed.get(name, [name])

    def narrowed(self, tensor: Any) -> Any:
        """Return a constant in the narrow type; values too large for it stay finite, as masks need."""
        import ml_dtypes
        import numpy as np
        from onnx import TensorProto, numpy_helper

        values = numpy_helper.to_array(tensor)
        dtype: Any = np.float16 if self.target == TensorProto.FLOAT16 else ml_dtypes.bfloat16
        greatest = _GREATEST[np.dtype(dtype).name]
        beyond = np.isfinite(values) & (np.abs(values) > greatest)
        near = np.where(beyond, np.sign(values) * _NEVER * greatest, values)
        return numpy_helper.from_array(near.astype(dtype), tensor.name)


class _Graph:
    """One graph during its conversion to the narrow type; nested graphs look up missing names in the outer one."""

    def __init__(self, graph: Any, inferred: Any, types: _Types, outer: _Graph | None) -> None:
        self._graph = graph
        self._inferred = inferred
        self._types = types
        self._outer = outer
        self._constants = {item.name: item for item in graph.initializer if item.data_type == _FLOAT}
        self._kinds = _kinds(inferred)
        self._floats = {name for name, kind in self._kinds.items() if kind == _FLOAT}
        self._narrow: dict[str, str] = {}
        self._wide: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._added: list[Any] = []
        self._results = set() if outer else {value.name for value in graph.output}

    def rewrite(self) -> None:
        """Replace the graph's nodes and constants."""
        for value in self._graph.input:
            if value.name in self._floats and value.name not in self._constants:
                (self._narrow if self._outer else self._wide)[value.name] = value.name
                if self._outer:
                    value.type.tensor_type.elem_type = self._types.target
        kept = self._kept()
        for index, node in enumerate(list(self._graph.node)):
            for place, attribute in enumerate(node.attribute):
                if attribute.HasField("g"):
                    twin = self._inferred.node[index].attribute[place].g
                    _Graph(attribute.g, twin, self._types, self).rewrite()
            self._add(node, index in kept)
        for value in self._graph.output:
            self._finish(value)
        self._replace()

    def name_of(self, name: str, *, wide: bool) -> str:
        """Return the name of a tensor in fp32 or in the narrow type; a Cast is added where there is none."""
        if name not in self._floats:
            return self._outer.name_of(name, wide=wide) if self._outer and name not in self._kinds else name
        have, other = (self._wide, self._narrow) if wide else (self._narrow, self._wide)
        if name not in have:
            if name in self._constants and not wide:
                have[name] = self._narrowed(name)
            elif name in self._constants:
                have[name] = name
            else:
                # An output of the model has to keep its own name.
                suffix = "__narrow" if not wide else "" if name in self._results else "__wide"
                have[name] = self._cast(other[name], name + suffix, wide=wide)
        return have[name]

    def _add(self, node: Any, keep: bool) -> None:
        types = self._types
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = self.name_of(name, wide=keep or not types.fits(node, "inputs", index))
        for index, name in enumerate(node.output):
            if name and name not in self._kinds:
                raise KeyError(f"{name!r}, which {node.op_type} {node.name!r} gives")
            if name not in self._floats:
                continue
            if keep or not types.fits(node, "outputs", index):
                self._wide[name] = name
            else:
                inner = f"{name}__narrow" if name in self._results else name
                self._narrow[name] = node.output[index] = inner
        if not keep:
            self._retype(node)
        self._nodes.append(node)

    def _retype(self, node: Any) -> None:
        """Change attributes that state the type of an output."""
        from onnx import helper, numpy_helper

        stated = _TYPED_BY.get(node.op_type.removesuffix("Like"), "")
        for attribute in list(node.attribute):
            if attribute.name == stated and attribute.i == _FLOAT:
                attribute.i = self._types.target
            elif attribute.name == "value" and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(self._types.narrowed(attribute.t))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                import numpy as np

                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = self._types.narrowed(numpy_helper.from_array(np.array(values, np.float32)))
                node.attribute.remove(attribute)
                node.attribute.append(helper.make_attribute("value", tensor))
        untyped = node.op_type == "ConstantOfShape" and not node.attribute
        if untyped or (stated == "dtype" and not any(item.name == "dtype" for item in node.attribute)):
            self._state(node, stated)

    def _state(self, node: Any, stated: str) -> None:
        """State fp32 where it is the implicit default."""
        import numpy as np
        from onnx import helper, numpy_helper

        if stated:
            if node.output[0] in self._narrow.values():
                node.attribute.append(helper.make_attribute(stated, self._types.target))
        else:
            zero = self._types.narrowed(numpy_helper.from_array(np.zeros(1, np.float32)))
            node.attribute.append(helper.make_attribute("value", zero))

    def _finish(self, value: Any) -> None:
        if self._outer:  # only the order of results matters there, not their names
            if value.name in self._floats or value.name not in self._kinds:
                named = self.name_of(value.name, wide=False)
                value.name, value.type.tensor_type.elem_type = named, self._types.target
        elif value.name in self._floats and value.name not in self._wide:
            if value.name in self._constants:
                self._wide[value.name] = value.name
            else:
                self._wide[value.name] = self._cast(self._narrow[value.name], value.name, wide=True)

    def _replace(self) -> None:
        unused = self._constants.keys() - self._wide.keys()
        kept = [item for item in self._graph.initializer if item.name not in unused]
        del self._graph.initializer[:], self._graph.node[:], self._graph.value_info[:]
        self._graph.initializer.extend([*kept, *self._added])
        self._graph.node.extend(self._nodes)
        inputs = [value for value in self._graph.input if value.name not in unused]
        del self._graph.input[:]
        self._graph.input.extend(inputs)

    def _narrowed(self, name: str) -> str:
        tensor = self._types.narrowed(self._constants[name])
        tensor.name = f"{name}__narrow"
        self._added.append(tensor)
        return str(tensor.name)

    def _cast(self, source: str, result: str, *, wide: bool) -> str:
        from onnx import helper

        kind = _FLOAT if wide else self._types.target
        self._nodes.append(helper.make_node("Cast", [source], [result], name=f"{result}/Cast", to=kind))
        return result

    def _kept(self) -> frozenset[int]:
        """Return the indices of the nodes that stay in fp32."""
        nodes, users = list(self._graph.node), self._users()
        exact: set[int] = set()
        for index in reversed(range(len(nodes))):
            node = nodes[index]
            floats = [name for name in node.output if name in self._floats]
            if self._is_exact(node) or (floats and all(users[name] and users[name] <= exact for name in floats)):
                exact.add(index)
        wide = (index for index, node in enumerate(nodes) if node.op_type in _WIDE or self._types.schema(node) is None)
        return frozenset(exact.union(wide))

    def _is_exact(self, node: Any) -> bool:
        if node.op_type == "Cast":
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            return to not in _NOT_INTEGERS and node.input[0] in self._floats
        return node.op_type in _EXACT

    def _users(self) -> dict[str, set[int]]:
        """Return the nodes that read each tensor; -1 where it is an output or is read within another graph."""
        users: dict[str, set[int]] = {name: set() for name in self._floats}
        for index, node in enumerate(self._graph.node):
            for name in node.input:
                if name in users:
                    users[name].add(index)
            for name in _read_within(node):
                if name in users:
                    users[name].add(-1)
        for value in self._graph.output:
            if value.name in users:
                users[value.name].add(-1)
        return users


def _kinds(graph: Any) -> dict[str, int]:
    """Return the element types of all tensors that a graph defines; 0 for sequences and the like."""
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {item.name: item.data_type for item in graph.initializer}


def _read_within(node: Any) -> Iterator[str]:
    """Yield the names that graphs within a node read, their own included."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from inner.input
                yield from _read_within(inner)


def _unknown(who: str, precision: str, why: str) -> ExportError:
    return ExportError(who, f"its types cannot be inferred, so it cannot be built in {precision}: {why}", "use fp32")
