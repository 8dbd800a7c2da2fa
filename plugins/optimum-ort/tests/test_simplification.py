"""Graphs of decoders without work on shapes: what is removed, and what is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_core.types import Artifact
from optimum_core.types.arrays import NDArray
from optimum_ort.merging import merge_products
from optimum_ort.simplification import simplify

_HEADS, _SIZE = 2, 8
_WIDTH = _HEADS * _SIZE


def numbers(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, list[Any]], constants: list[Any], last: str) -> Any:
    """Return a model with inputs in float and one output of unknown shape."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [ids, *ports], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(model: Any, **inputs: NDArray) -> NDArray:
    rows, new = next(iter(inputs.values())).shape[:2]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray = session.run(None, {"input_ids": np.zeros((rows, new), np.int64), **inputs})[0]
    return found


def operators(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def by_head() -> list[onnx.NodeProto]:
    """Return the nodes that take x [batch, sequence, width] apart, with the shape computed from x."""
    return [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Gather", ["shape", "one"], ["new"]),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["rows1"]),
        helper.make_node("Unsqueeze", ["new", "axes"], ["new1"]),
        helper.make_node("Concat", ["rows1", "new1", "left", "size"], ["apart"], axis=0),
        helper.make_node("Reshape", ["x", "apart"], ["split"]),
        helper.make_node("Transpose", ["split"], ["heads"], perm=[0, 2, 1, 3]),
    ]


_CONSTANTS = [numbers("zero", 0), numbers("one", 1), numbers("axes", [0]), numbers("left", [-1]),
              numbers("size", [_SIZE])]  # fmt: skip


def test_shapes_become_constants_and_reshapes_that_undo_each_other_go() -> None:
    nodes = [
        *by_head(),
        helper.make_node("Transpose", ["heads"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["rows1", "new1", "left"], ["together"], axis=0),
        helper.make_node("Reshape", ["back", "together"], ["whole"]),
        helper.make_node("Relu", ["whole"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["batch", "sequence", _WIDTH]}, _CONSTANTS, "y")
    x = np.random.default_rng(0).standard_normal((3, 5, _WIDTH)).astype(np.float32)
    before = answer(model, x=x)
    simplify(model)
    assert operators(model) == {"Relu": 1}
    np.testing.assert_array_equal(answer(model, x=x), before)


def test_a_number_keeps_the_axes_that_it_is_given() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["width"]),
        helper.make_node("Unsqueeze", ["width", "both"], ["square"]),
        helper.make_node("Cast", ["square"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = [numbers("two", 2), numbers("both", [0, 1])]
    model = model_of(nodes, {"x": ["batch", "sequence", 16]}, constants, "y")
    before = answer(model, x=np.ones((2, 3, 16), np.float32))
    simplify(model)
    after = answer(model, x=np.ones((2, 3, 16), np.float32))
    assert after.shape == before.shape == (1, 1) and np.array_equal(after, before)


def test_what_a_branch_reads_keeps_its_name() -> None:
    """A value that only a branch reads: another name in its place would leave the branch without it."""
    none = numpy_helper.from_array(np.zeros(1, np.float32), "none")
    branches = [
        helper.make_graph([helper.make_node(operator, ["whole"], [out])], out,
                          [], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])
        for operator, out in (("Relu", "then"), ("Neg", "other"))
    ]  # fmt: skip
    nodes = [
        *by_head(),
        helper.make_node("Transpose", ["heads"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Concat", ["rows1", "new1", "left"], ["together"], axis=0),
        helper.make_node("Reshape", ["back", "together"], ["whole"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", "none"], ["negative"]),
        helper.make_node("Squeeze", ["negative"], ["decides"]),
        helper.make_node("If", ["decides"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    model = model_of(nodes, {"x": ["batch", "sequence", _WIDTH]}, [*_CONSTANTS, none], "y")
    x = np.random.default_rng(0).standard_normal((2, 3, _WIDTH)).astype(np.float32)
    before = answer(model, x=x)
    simplify(model)
    assert not operators(model)["Gather"]
    np.testing.assert_array_equal(answer(model, x=x), before)


def rotary(halves: list[str], table: str = "batch") -> Any:
    """Return a rotary embedding of x by angles [table, sequence, half of a head], which both halves of a head share
    where `halves` are one."""
    angles = [helper.make_node("Concat", halves, ["whole"], axis=-1)]
    for operator, name in (("Cos", "cosines"), ("Sin", "sines")):
        angles += [
            helper.make_node(operator, ["whole"], [f"{name}3"]),
            helper.make_node("Mul", [f"{name}3", "factor"], [f"{name}f"]),
            helper.make_node("Unsqueeze", [f"{name}f", "one1"], [name]),
        ]
    nodes = [
        *by_head(),
        *angles,
        helper.make_node("Slice", ["heads", "axes", "half", "last"], ["lower"]),
        helper.make_node("Slice", ["heads", "half", "end", "last"], ["upper"]),
        helper.make_node("Neg", ["upper"], ["negative"]),
        helper.make_node("Concat", ["negative", "lower"], ["turned"], axis=-1),
        helper.make_node("Mul", ["heads", "cosines"], ["first"]),
        helper.make_node("Mul", ["turned", "sines"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["y"]),
    ]
    constants = [
        *_CONSTANTS, numbers("half", [_SIZE // 2]), numbers("end", [2**62]), numbers("last", [-1]),
        numbers("one1", [1]), numpy_helper.from_array(np.array(0.7, np.float32), "factor"),
    ]  # fmt: skip
    inputs = {name: [table, "sequence", _SIZE // 2] for name in dict.fromkeys(halves)}
    return model_of(nodes, {"x": ["batch", "sequence", _WIDTH], **inputs}, constants, "y")


@pytest.mark.parametrize("table", ["batch", 1], ids=["positions of each row", "positions of all"])
def test_a_rotary_embedding_is_one_operator_with_the_angles_of_the_call(table: Any) -> None:
    model, rng = rotary(["angles", "angles"], table), np.random.default_rng(0)
    x = rng.standard_normal((3, 5, _WIDTH)).astype(np.float32)
    angles = rng.standard_normal((3 if table == "batch" else 1, 5, _SIZE // 2)).astype(np.float32)
    before = answer(model, x=x, angles=angles)
    simplify(model)
    found = operators(model)
    assert found["RotaryEmbedding"] == 1 and not found["Neg"]
    np.testing.assert_allclose(answer(model, x=x, angles=angles), before, atol=1e-6)


def test_an_embedding_with_other_angles_in_the_other_half_is_left_alone() -> None:
    model, rng = rotary(["angles", "others"]), np.random.default_rng(0)
    x = rng.standard_normal((2, 5, _WIDTH)).astype(np.float32)
    angles, others = rng.standard_normal((2, 2, 5, _SIZE // 2)).astype(np.float32)
    before = answer(model, x=x, angles=angles, others=others)
    simplify(model)
    assert not operators(model)["RotaryEmbedding"]
    np.testing.assert_array_equal(answer(model, x=x, angles=angles, others=others), before)


def test_products_of_one_input_are_one_product() -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((_WIDTH, size)).astype(np.float32)
               for name, size in (("a", 4), ("b", 6), ("shared", 4))}  # fmt: skip
    nodes = [
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in weights),
        helper.make_node("MatMul", ["z", "shared"], ["zshared"]),  # its weight has two readers
        helper.make_node("Concat", ["xa", "xb", "xshared", "zshared"], ["y"], axis=-1),
    ]
    constants = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    shape = ["batch", "sequence", _WIDTH]
    model = model_of(nodes, {"x": shape, "z": shape}, constants, "y")
    x, z = rng.standard_normal((2, 2, 3, _WIDTH)).astype(np.float32)
    before = answer(model, x=x, z=z)
    assert merge_products(model) == 1
    assert operators(model)["MatMul"] == 3
    np.testing.assert_allclose(answer(model, x=x, z=z), before, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_layer_of_a_decoder_computes_no_shapes(kind: str, shared_cache: Callable[[str], Artifact]) -> None:
    found = operators(onnx.load(shared_cache(kind).main_file))
    layers = found["GroupQueryAttention"]
    assert found["RotaryEmbedding"] == found["Split"] == 2 * layers
    assert found["Transpose"] < layers and found["Reshape"] < 2 * layers + 4 and found["Shape"] < 10
