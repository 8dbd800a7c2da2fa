"""ONNX files whose weights lie beside them, written one after the other and never held in a message.

The tracing exporter copies weights into one protobuf message, which holds 2 GB at most, and takes three times their
memory. Here it leaves them out; they are inputs of its graph, and become initializers in a file. It folds no constants
then, which is done here for small ones: backends recognize parts of a graph by constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from optimum_core.models.sources.onnx_graph import copied

DATA = "model.onnx.data"
#: Weights of fewer bytes stay in the graph.
_SMALL = 1024
#: What weights in a file begin at a multiple of, so that a runtime can map each of them.
_PAGE = 4096
#: Operators that compute shapes and factors.
_FOLDED = frozenset({
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Mul", "Reshape", "Shape", "Slice",
    "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip


def add_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Turn those inputs of an ONNX file that have the names of weights into initializers, the large ones in a file
    beside it. A weight that is read in transposed form alone is stored so."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    _fold(model)
    transposed = _transposed(graph, weights)
    with (path.parent / DATA).open("wb") as file:
        for value in graph.input:
            if value.name in weights:
                tensor = weights[value.name].detach()
                graph.initializer.append(_stored(value.name, tensor.t() if value.name in transposed else tensor, file))
    inputs = [value for value in graph.input if value.name not in weights]
    kept = [node for node in graph.node if not (node.op_type == "Transpose" and node.input[0] in transposed)]
    renamed = {output: name for name, outputs in transposed.items() for output in outputs}
    for node in kept:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for field, items in (("input", inputs), ("node", kept)):
        copies = [copied(item) for item in items]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(copies)
    onnx.save(model, path)


def _fold(model: Any) -> None:
    """Replace nodes that compute small constants of constants."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    known: dict[str, Any] = {}
    nodes = []
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif names and all(name in known for name in names) and node.op_type in _FOLDED:
            small = helper.make_graph([node], "constant", [], [helper.make_empty_tensor_value_info(node.output[0])],
                                      [numpy_helper.from_array(known[name], name) for name in names])  # fmt: skip
            (value,) = ReferenceEvaluator(helper.make_model(small, opset_imports=model.opset_import)).run(None, {})
            if value.nbytes <= _SMALL:
                known[node.output[0]] = value
                made = numpy_helper.from_array(value)
                node = helper.make_node("Constant", [], list(node.output), name=node.name, value=made)
        nodes.append(copied(node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _transposed(graph: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Return the matrices that nothing reads but transpositions, with what these make. A transpose that is an output,
    or that a loop or a branch reads, keeps its node."""
    readers: dict[str, list[Any]] = {}
    kept = {value.name for value in graph.output}.union(*map(_captured, graph.node))
    for node in graph.node:
        for name in _reads(node):
            readers.setdefault(name, []).append(node)
    return {
        name: [node.output[0] for node in nodes]
        for name, nodes in readers.items()
        if name in weights
        and weights[name].ndim == 2
        and all(node.op_type == "Transpose" and node.output[0] not in kept for node in nodes)
    }


def _reads(node: Any) -> set[str]:
    """Return the values that a node reads, in its loops and branches too."""
    return set(node.input) | _captured(node)


def _captured(node: Any) -> set[str]:
    """Return the values that the loops and branches of a node read or give out."""
    inner = [graph for item in node.attribute for graph in (item.g, *item.graphs)]
    given = {value.name for graph in inner for value in graph.output}
    return given.union(*(_reads(one) for graph in inner for one in graph.node))


def _stored(name: str, tensor: torch.Tensor, file: BinaryIO) -> Any:
    """Return the initializer of a tensor; large ones are written into the file."""
    import numpy as np
    from onnx import TensorProto

    brief = tensor.dtype == torch.bfloat16  # numpy has no such type
    array = np.ascontiguousarray((tensor.contiguous().view(torch.int16) if brief else tensor).numpy())
    kind = int(TensorProto.BFLOAT16) if brief else _type_of(array)
    if array.nbytes < _SMALL:
        return TensorProto(name=name, dims=array.shape, data_type=kind, raw_data=array.tobytes())
    made = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    file.write(bytes(-file.tell() % _PAGE))
    place = {"location": DATA, "offset": str(file.tell()), "length": str(array.nbytes)}
    for key, text in place.items():
        made.external_data.add(key=key, value=text)
    array.tofile(file)
    return made


def _type_of(array: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
