"""Divisions of whole numbers in ONNX files: what could end a process is rewritten, and means the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optimum_core.models.backends.onnx_files.divisions import guard_divisions

_LENGTH = [
    helper.make_node("Shape", ["a"], ["shape"]),
    helper.make_node("Gather", ["shape", "zero"], ["length"], axis=0),
]
_CONSTANTS = {"zero": 0, "two": 2, "minus_one": -1}


def _write(path: Path, nodes: Sequence[Any], kind: int = TensorProto.INT64) -> Path:
    """Write a model of whole numbers `a` and `b`, which gives `y`."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    a, b, y = (helper.make_tensor_value_info(name, kind, ["n"]) for name in ("a", "b", "y"))
    weights = [numpy_helper.from_array(np.array(value, dtype), name) for name, value in _CONSTANTS.items()]
    graph = helper.make_graph(list(nodes), "graph", [a, b], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _in_a_branch() -> list[Any]:
    """Divide in a branch by what the graph around it made, of a type that nothing declares."""
    inner, other = (
        helper.make_graph(
            [helper.make_node(operator, inputs, [output])], output, [],
            [helper.make_tensor_value_info(output, TensorProto.INT64, ["n"])],
        )
        for operator, inputs, output in (("Div", ["a", "divisor"], "inner"), ("Identity", ["a"], "as_it_is"))
    )  # fmt: skip
    return [
        helper.make_node("Cast", ["b"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["floats"], ["divisor"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=other),
    ]


def _operators(graph: Any) -> list[str]:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [node.op_type for node in graph.node] + [name for branch in inner for name in _operators(branch)]


@pytest.mark.parametrize(
    ("nodes", "kind", "expected"),
    [
        ([helper.make_node("Div", ["a", "b"], ["y"])], TensorProto.INT32, [-7, 3, -3]),
        ([helper.make_node("Mod", ["a", "b"], ["y"])], TensorProto.INT64, [0, 1, -1]),
        ([helper.make_node("Div", ["a", "minus_one"], ["y"])], TensorProto.INT64, [-7, -7, 7]),
        (_in_a_branch(), TensorProto.INT64, [-7, 3, -3]),
    ],
    ids=["quotient", "remainder", "constant", "branch"],
)
def test_a_division_by_minus_one_is_written_otherwise(
    tmp_path: Path, nodes: list[Any], kind: int, expected: list[int]
) -> None:
    path = _write(tmp_path / "model.onnx", nodes, kind)
    guard_divisions(path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {"Equal", "Where"} <= set(_operators(proto.graph))
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    feed = {"a": np.array([7, 7, -7], dtype), "b": np.array([-1, 2, 2], dtype)}
    if "Mod" in _operators(proto.graph):  # onnx's reference is numpy's, whose remainder has the divisor's sign
        expected = [0, 1, 1]
    (found,) = ReferenceEvaluator(proto).run(None, feed)
    assert np.asarray(found).tolist() == expected


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Div", ["a", "two"], ["y"])],
        [*_LENGTH, helper.make_node("Mod", ["a", "length"], ["y"])],
        [
            *_LENGTH,
            helper.make_node("Mul", ["length", "two"], ["twice"]),
            helper.make_node("Div", ["twice", "b"], ["y"]),
        ],
        [helper.make_node("Mod", ["a", "b"], ["y"], fmod=1)],
        [helper.make_node("Add", ["a", "b"], ["y"])],
    ],
    ids=["by two", "by a length", "of a length", "in floats", "none"],
)
def test_other_divisions_stay(tmp_path: Path, nodes: list[Any]) -> None:
    path = _write(tmp_path / "model.onnx", nodes)
    before = path.read_bytes()
    guard_divisions(path)
    assert path.read_bytes() == before


def test_an_older_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = _write(tmp_path / "model.onnx", [helper.make_node("Div", ["a", "b"], ["y"])])
    proto = onnx.load(path)
    proto.opset_import[0].version = 8  # which has no `Where`
    onnx.save(proto, path)
    before = path.read_bytes()
    guard_divisions(path)
    assert path.read_bytes() == before


def test_branches_that_use_one_name_for_two_types(tmp_path: Path) -> None:
    """Divide whole numbers in one branch, and floats of the same names in the other."""
    branches = []
    for name, kind in (("then", TensorProto.INT64), ("else", TensorProto.FLOAT)):
        nodes = [
            helper.make_node("Cast", ["b"], ["w"], to=kind),
            helper.make_node("Cast", ["a"], ["v"], to=kind),
            helper.make_node("Div", ["v", "w"], ["quotient"]),
            helper.make_node("Cast", ["quotient"], [name], to=TensorProto.INT64),
        ]
        result = helper.make_tensor_value_info(name, TensorProto.INT64, ["n"])
        branches.append(helper.make_graph(nodes, name, [], [result]))
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    both = helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1])
    path = _write(tmp_path / "model.onnx", [yes, both])
    guard_divisions(path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    found = {attribute.g.name: _operators(attribute.g) for attribute in proto.graph.node[1].attribute}
    assert "Where" in found["then"] and "Where" not in found["else"]


def test_a_function_of_the_file_is_opened(tmp_path: Path) -> None:
    path = _write(tmp_path / "model.onnx", [helper.make_node("Quotient", ["a", "b"], ["y"], domain="own")])
    proto = onnx.load(path)
    divide = helper.make_node("Div", ["p", "q"], ["r"])
    opset = helper.make_opsetid("", 18)
    proto.functions.append(helper.make_function("own", "Quotient", ["p", "q"], ["r"], [divide], [opset]))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(proto, path)
    guard_divisions(path)
    assert {"Div", "Where"} <= set(_operators(onnx.load(path).graph))


def test_weights_in_another_file_stay_there(tmp_path: Path) -> None:
    path = _write(tmp_path / "model.onnx", [helper.make_node("Div", ["a", "b"], ["y"])])
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    guard_divisions(path)
    assert "Where" in _operators(onnx.load(path, load_external_data=False).graph)
    assert onnx.load(path).graph.initializer[1].raw_data == np.array(2).tobytes()
