"""Facts of an ONNX graph: its precision, the tables that it looks up, and the files of its weights.

Imports neither numpy nor torch: a graph is recognized before anything is opened.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from optimum_core.errors import SourceError

#: Names of element types of floats, the narrowest first.
FULL = "fp32"
FLOATS = ("fp16", "bf16", FULL)
#: Operators of quantized values, with the scheme that they show; the first that a graph has decides.
_SCHEMES: Mapping[str, str] = {
    "MatMulNBits": "weight-only-int4",
    "MatMulInteger": "dynamic-int8",
    "ConvInteger": "dynamic-int8",
    "DynamicQuantizeMatMul": "dynamic-int8",
    "DynamicQuantizeLinear": "dynamic-int8",
    "QLinearMatMul": "static-int8",
    "QLinearConv": "static-int8",
    "QuantizeLinear": "static-int8",
    "DequantizeLinear": "weight-only-int8",
}
#: Kinds of values that are no tensors.
_CONTAINERS = {"sequence_type": "a sequence", "map_type": "a map", "optional_type": "optional"}
#: Operators that keep the shape of a constant.
_PASSED = ("DequantizeLinear", "Cast", "Identity")
#: The least share of the weights in a type that names the whole: norms and scales have less.
_SHARE = 0.1


def read_graph(path: Path, *, weights: bool = False) -> Any:
    """Return the model of an ONNX file.

    Args:
        weights: with those in files of their own.

    Raises:
        SourceError: it is no ONNX model, holds no operators, or a file of its weights is missing or too short.
    """
    import onnx

    who, again = f"model {path.name!r}", "copy or download its files again"
    try:
        proto = onnx.load(path, load_external_data=weights)
    except Exception as error:  # a damaged file raises errors of many types
        causes = "it is cut short, lacks the files of its weights, or is another's"
        raise SourceError(who, f"{path} does not open as ONNX ({error!r}): {causes}", again) from error
    if not proto.graph.node:
        size = path.stat().st_size
        why = f"{path} is empty" if size == 0 else f"{path} ({size} bytes) holds no graph with operators"
        raise SourceError(who, why, again)
    return proto


def require_tensors(proto: Any, who: str) -> None:
    """Refuse a graph whose inputs and outputs are not all tensors of numbers, or that has none of either.

    Raises:
        SourceError: one is a sequence, a map, optional, or of texts.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    for side, values in (("input", inputs), ("output", proto.graph.output)):
        if not values:
            raise SourceError(who, f"it has no {side}", "give a model that computes something of its inputs")
        for value in values:
            kind = value.type.WhichOneof("value") or "tensor_type"
            if kind != "tensor_type":
                what = _CONTAINERS.get(kind, kind)
            elif not (value.type.tensor_type.elem_type and value.type.tensor_type.HasField("shape")):
                remedy = "onnx.shape_inference.infer_shapes_path(file, another) may state them; or export it with them"
                raise SourceError(who, f"the file does not state type and axes of its {side} {value.name!r}", remedy)
            elif (dtype := tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).kind in "biuf":
                continue
            else:
                what = "of texts" if dtype.kind == "O" else f"of {dtype}"
            why = f"its {side} {value.name!r} is {what}, and tensors of numbers alone are read"
            raise SourceError(who, why, "export it with such (skl2onnx: options={'zipmap': False}, labels as numbers)")


def precision_of(proto: Any) -> str:
    """Return "fp32", "bf16" or "fp16" where the weights are of the arithmetic's type, else a quantization scheme.

    Weights of several types are named after the narrowest one that holds a tenth of them; a graph without weights is
    named after its inputs.
    """
    kinds = {node.op_type for node in proto.graph.node}
    if (scheme := next((name for kind, name in _SCHEMES.items() if kind in kinds), None)) is not None:
        return scheme
    weights = _weights(proto)
    held = Counter[str]()
    for name, elements in weights.values():
        held[name] += elements
    found = next((name for name in FLOATS if held[name] > held.total() * _SHARE), None) or _of_inputs(proto)
    narrow = {name for name, (kind, _) in weights.items() if kind == found}
    return f"weight-only-{found}" if found != "fp32" and narrow and _are_widened(proto, narrow) else found


def is_double(proto: Any) -> bool:
    """Whether all floats among a graph's constants, or among its inputs where it has none, are in 64 bits."""
    from onnx import TensorProto

    floats = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}
    held = {tensor.data_type for tensor in proto.graph.initializer} & floats
    taken = {value.type.tensor_type.elem_type for value in proto.graph.input} & floats
    return (held or taken) == {TensorProto.DOUBLE}


def rows_looked_up(proto: Any, name: str) -> int | None:
    """Return the number of rows of the smallest table that an input indexes; None: it indexes none."""
    tables = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    made = {output: node for node in proto.graph.node for output in node.output}
    found = []
    for node in proto.graph.node:
        if node.op_type == "Gather" and node.input[1] == name:
            table = node.input[0]
            while table not in tables and table in made and made[table].op_type in _PASSED:
                table = made[table].input[0]
            found += [tables[table]] if table in tables else []
    return min(found, default=None)


def id_range(proto: Any, name: str, dtype: str) -> tuple[int | None, int | None]:
    """Return the least and the greatest value of an input of whole numbers that indexes a table; else two None."""
    rows = rows_looked_up(proto, name) if dtype.startswith("int") else None
    return (None, None) if rows is None else (0, rows - 1)


def table_lengths(proto: Any) -> tuple[int, ...]:
    """Return the lengths of constants that are looked up or cut: of tables of ids and of positions."""
    sizes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    made = {output: node for node in proto.graph.node for output in node.output}
    found: set[int] = set()
    for node in proto.graph.node:
        if node.op_type in ("Gather", "Slice") and node.input:
            name = node.input[0]
            while name in made and made[name].op_type in _PASSED:
                name = made[name].input[0]
            found.update(sizes.get(name) or _constant(made.get(name)))
    return tuple(sorted(length for length in found if length > 1))


def _constant(node: Any) -> tuple[int, ...]:
    """Return the shape of the tensor that a node holds; empty: it holds none."""
    held = [item.t for item in node.attribute if item.name == "value"] if node is not None else []
    return tuple(held[0].dims) if held and node.op_type == "Constant" else ()


def channels_of(proto: Any, name: str) -> int | None:
    """Return the number of channels that the convolutions of an input read; None: none reads it."""
    sizes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in sizes:
            groups = next((item.i for item in node.attribute if item.name == "group"), 1)
            return int(sizes[node.input[1]][1] * groups)
    return None


def external_files(proto: Any, graph: Path) -> list[Path]:
    """Return the files that hold a graph's weights.

    Raises:
        SourceError: one is missing, or lies outside the graph's directory.
    """
    from onnx.external_data_helper import uses_external_data

    who = f"model {graph.name!r}"
    places = {
        entry.value
        for tensor in proto.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise SourceError(
                who, f"its weights are in {place!r}, outside its directory", "save it with them beside it"
            )
        if not (graph.parent / place).is_file():
            raise SourceError(who, f"its weights in {place!r} are not beside it", "copy all files of the model")
    return [graph.parent / place for place in sorted(places)]


def copy_external(files: Sequence[Path], graph: Path, directory: Path) -> tuple[str, ...]:
    """Copy files of a graph's weights to where a copy of the graph in `directory` looks for them; return their names
    there."""
    names = [path.relative_to(graph.parent) for path in files]
    for path, name in zip(files, names, strict=True):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name)
    return tuple(name.as_posix() for name in names)


def _weights(proto: Any) -> dict[str, tuple[str, int]]:
    """Return the type and the number of elements of each constant of floats with two axes or more, by its name."""
    named = {
        tensor.name: (_float_name(tensor.data_type), prod(tensor.dims))
        for tensor in proto.graph.initializer
        if len(tensor.dims) > 1
    }
    return {name: (kind, elements) for name, (kind, elements) in named.items() if kind is not None}


def _of_inputs(proto: Any) -> str:
    """Return the narrowest type of floats among the inputs; "fp32" where none is of floats."""
    found = {_float_name(value.type.tensor_type.elem_type) for value in proto.graph.input}
    return next((name for name in FLOATS if name in found), "fp32")


def _float_name(kind: int) -> str | None:
    from onnx import TensorProto

    names = {
        TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.FLOAT: "fp32",
        TensorProto.DOUBLE: "fp32",
    }  # fmt: skip
    return names.get(kind)


def _are_widened(proto: Any, names: set[str]) -> bool:
    """Whether constants are converted to 32 bits wherever they are used, so that the arithmetic is of 32 bits."""
    from onnx import TensorProto

    readers = [node for node in proto.graph.node if names & set(node.input)]
    return bool(readers) and all(
        node.op_type == "Cast" and any(item.name == "to" and item.i == TensorProto.FLOAT for item in node.attribute)
        for node in readers
    )


def copied(message: Any) -> Any:
    """Return a copy of a message of ONNX, such as a node."""
    made = type(message)()
    made.CopyFrom(message)
    return made
