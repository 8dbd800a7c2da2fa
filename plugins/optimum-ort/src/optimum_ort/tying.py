"""Weights that a table and a product share, stored once.

A language model's head often multiplies by the transposed table of its embeddings. Exporters write that product with
the weight transposed, so that a file has both: SmolLM2-135M took 621 MiB for 513 MiB of weights. ONNX's `Gemm` reads
its weight as the table has it, and no optimization of onnxruntime copies it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from optimum_ort.graphs import GraphIndex, attribute, rewrite

# Smaller weights are not worth the three operators around the product.
_LEAST_ELEMENTS = 1024
# The first opset whose `Shape` takes a part of the axes.
_OPSET = 15


def tie_weights(model: Any, folder: Path | None = None) -> int:
    """Change an `onnx.ModelProto` in place: products with the transpose of a table read the table; return their
    number.

    Args:
        folder: where its external weights lie, if these were not read.
    """
    if max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0) < _OPSET:
        return 0
    tables = _Tables(model.graph, folder)
    replaced: dict[str, list[Any]] = {}
    constants: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and (table := tables.behind(node.input[1])) is not None:
            replaced[node.output[0]] = _product(node, table, constants)
    if replaced:
        nodes = [made for node in model.graph.node for made in replaced.get(node.output[0], [node])]
        rewrite(model.graph, nodes, constants.values())
    return len(replaced)


class _Tables:
    """The large constants of a graph that other operators than products read."""

    def __init__(self, graph: Any, folder: Path | None) -> None:
        self._index, self._folder = GraphIndex(graph), folder
        self._constants = {item.name: item for item in graph.initializer}
        self._tables: dict[tuple[Any, ...], list[Any]] = {}
        for item in graph.initializer:
            readers = [node for node in self._index.readers.get(item.name, []) if not _is_transposition(node)]
            is_table = any(node.op_type == "Gather" for node in readers)
            if (
                item.data_type in _floats()
                and len(item.dims) == 2
                and math.prod(item.dims) >= _LEAST_ELEMENTS
                and is_table
            ):
                self._tables.setdefault((item.data_type, *item.dims), []).append(item)

    def behind(self, weight: str) -> Any:
        """Return the table of which a product's weight is the transpose; None: there is none."""
        node = self._index.maker.get(weight)
        if node is not None:
            source = self._constants.get(node.input[0]) if _is_transposition(node) else None
            known = [] if source is None else self._tables.get((source.data_type, *source.dims), [])
            return next((table for table in known if table is source), None)
        tensor = self._constants.get(weight)
        if tensor is None or len(tensor.dims) != 2:
            return None
        like = self._tables.get((tensor.data_type, *reversed(tensor.dims)), [])
        return next((table for table in like if self._is_transpose(tensor, table)), None)

    def _is_transpose(self, tensor: Any, table: Any) -> bool:
        first, second = self._array(tensor).T, self._array(table)
        # Bytes, so that NaN equals itself; the first row tells most weights apart.
        return bool(first[:1].tobytes() == second[:1].tobytes() and first.tobytes() == second.tobytes())

    def _array(self, tensor: Any) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(tensor, "" if self._folder is None else str(self._folder))


def _floats() -> tuple[int, ...]:
    """Return the types of tables that `Gemm` takes on every device; on CPUs, ONNX Runtime has none of whole numbers."""
    from onnx import TensorProto

    return TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE


def _is_transposition(node: Any) -> bool:
    return bool(node.op_type == "Transpose" and attribute(node, "perm", [1, 0]) == [1, 0])


def _product(node: Any, table: Any, constants: dict[str, Any]) -> list[Any]:
    """Return the nodes of a product of values of any rank with the transpose of a table."""
    import numpy as np
    from onnx import helper, numpy_helper

    rows, width = table.dims
    source, result = node.input[0], node.output[0]
    flat, size = f"tied.flat_{width}", f"tied.size_{rows}"
    constants[flat] = numpy_helper.from_array(np.array([-1, width], np.int64), flat)
    constants[size] = numpy_helper.from_array(np.array([rows], np.int64), size)

    def made(operator: str, inputs: list[str], part: str, **attributes: Any) -> Any:
        output = f"{result}.{part}" if part else result
        name = node.name if operator == "Gemm" else f"tied/{output}/{operator}"
        return helper.make_node(operator, inputs, [output], name=name, **attributes)

    return [
        made("Reshape", [source, flat], "flat"),
        made("Gemm", [f"{result}.flat", table.name], "product", transB=1),
        made("Shape", [source], "lengths", start=0, end=-1),
        made("Concat", [f"{result}.lengths", size], "shape", axis=0),
        made("Reshape", [f"{result}.product", f"{result}.shape"], ""),
    ]
