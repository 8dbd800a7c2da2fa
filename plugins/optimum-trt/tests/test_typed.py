"""Networks in fp16 and bf16: the same function up to rounding, and exact where they have to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from optimum_core.errors import ExportError
from optimum_core.plugins import manager
from optimum_core.types import Artifact, OptimizeRequest
from optimum_core.verify import verify
from optimum_trt.typed import convert

Graph = Callable[..., Artifact]
Run = Callable[[Path | bytes, Any], Any]
Make = Callable[..., OptimizeRequest]


def floats(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def integers(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def types(model: Any) -> dict[str, int]:
    """Element types of all tensors, by strict inference: it raises where an operator does not take what it gets."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {item.name: item.type.tensor_type.elem_type for item in values} | {
        item.name: item.data_type for item in inferred.initializer
    }


@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_fp16_agrees_with_eager_at_shapes_never_traced(kind: str, tiny: Any, on_cpu: Run) -> None:
    made = tiny(kind)
    model = convert(made.artifact.main_file, "fp16", "test")
    content = model.SerializeToString()
    products = Counter(types(model)[node.input[0]] for node in model.graph.node if node.op_type == "MatMul")
    assert set(products) == {TensorProto.FLOAT16}
    fidelity = verify(lambda inputs: on_cpu(content, inputs), made.cases, made.artifact.outputs, precision="fp16")
    assert fidelity.passed, fidelity.worst


def test_fp16_of_a_decoder_with_its_cache(gpt2: Any, on_cpu: Run) -> None:
    content = convert(gpt2.artifact.main_file, "fp16", "test").SerializeToString()
    for shape in ({}, {"batch": 3, "past": 0, "query": 7}, {"batch": 1, "past": 20, "query": 1}):
        inputs = gpt2.draw(**shape, seed=4)
        got, want = on_cpu(content, inputs), gpt2.eager(inputs)
        for name, value in want.items():
            assert got[name].dtype == np.float32
            assert np.abs(got[name] - value).max() <= 1e-2 * np.abs(value).max(), name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_outputs_keep_their_types(precision: str, tiny: Any) -> None:
    artifact = tiny("vit").artifact
    model = convert(artifact.main_file, precision, "test")
    assert [item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)] == [1, 1]
    assert [item.name for item in model.graph.output] == [item.name for item in artifact.outputs]


@pytest.mark.parametrize(("precision", "never"), [("fp16", -57316.0), ("bf16", -2.97e38)])
def test_masks_stay_finite_with_scores_added(precision: str, never: float, graph: Graph) -> None:
    nodes = [helper.make_node("Add", ["x", "lowest"], ["masked"]), helper.make_node("Softmax", ["masked"], ["y"])]
    lowest = floats([0, 0, np.finfo(np.float32).min, -np.inf])
    artifact = graph(nodes, {"lowest": lowest}, x=("batch", 4))
    model = convert(artifact.main_file, precision, "test")
    (y,) = ReferenceEvaluator(model).run(["y"], {"x": floats([[0, 0, 0, 0], [0, 0, -500, 0]])})
    assert np.allclose(y, [0.5, 0.5, 0, 0])
    kept = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    assert kept[2] == pytest.approx(never, rel=0.01) and kept[3] == -np.inf
    hidden = graph(nodes, {"lowest": floats([np.finfo(np.float32).min] * 4)}, x=("batch", 4))
    (y,) = ReferenceEvaluator(convert(hidden.main_file, precision, "test")).run(["y"], {"x": floats([[-90] * 4])})
    assert np.allclose(y, 0.25), "a row of which all is hidden is an average, as in fp32"


def test_angles_stay_exact(graph: Graph, on_cpu: Run) -> None:
    """Rotary positions: in fp16, 4001 would be 4000, and its sine another."""
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Squeeze", ["length"], ["last"]),
        helper.make_node("Range", ["zero", "last", "one"], ["positions"]),
        helper.make_node("Cast", ["positions"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "frequency"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["sines"]),
        helper.make_node("Mul", ["x", "sines"], ["y"]),
    ]
    weights = {"zero": np.int64(0), "one": np.int64(1), "frequency": np.float32(0.7)}
    artifact = graph(nodes, weights, x=("batch", "sequence"), y=("batch", "sequence"))
    model = convert(artifact.main_file, "fp16", "test")
    found = types(model)
    assert [found[name] for name in ("floats", "angles", "sines")] == [TensorProto.FLOAT] * 3
    x = np.ones((1, 4002), np.float32)
    got, want = on_cpu(model.SerializeToString(), {"x": x})["y"], np.sin(np.arange(4002) * np.float32(0.7))
    assert np.abs(got - want).max() < 2e-3


def test_squares_and_means_stay_wide(graph: Graph, on_cpu: Run) -> None:
    """An RMS norm written out: 300 squared is beyond fp16."""
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "last"], ["mean"]),
        helper.make_node("Sqrt", ["mean"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["normal"]),
        helper.make_node("MatMul", ["normal", "w"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    artifact = graph(nodes, {"two": np.float32(2), "last": integers([-1]), "w": weight})
    model = convert(artifact.main_file, "fp16", "test")
    found = types(model)
    assert [found[name] for name in ("squares", "mean", "root")] == [TensorProto.FLOAT] * 3
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32) * 300
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True)) @ weight
    assert np.abs(on_cpu(model.SerializeToString(), {"x": x})["y"] - want).max() < 1e-2


def test_what_a_schema_does_not_take_stays_wide(graph: Graph, on_cpu: Run) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Resize", ["d", "", "scales"], ["y"]),
    ]
    weights = {"scale": np.float32(0.5), "zero": np.int8(0), "scales": floats([1, 2])}
    for opset in (13, 19):
        artifact = graph(nodes, weights, x=("batch", 4), y=("batch", 8), opset=opset)
        model = convert(artifact.main_file, "fp16", "test")
        found = types(model)
        assert found["scales"] == TensorProto.FLOAT
        assert found["d"] == (TensorProto.FLOAT if opset == 13 else TensorProto.FLOAT16)
        got = on_cpu(model.SerializeToString(), {"x": floats([[1, 2, 3.1, 40]])})["y"]
        assert got.tolist() == [[1, 1, 2, 2, 3, 3, 40, 40]]


def test_graphs_within_a_graph(graph: Graph, on_cpu: Run) -> None:
    """Both branches read what is outside; one of them makes a constant of its own."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("MatMul", ["hidden", "w"], ["left"])],
        "then",
        [],
        [value("left", TensorProto.FLOAT, None)],
    )
    otherwise = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            helper.make_node("Add", ["zeros", "half"], ["right"]),
        ],
        "else",
        [],
        [value("right", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["hidden"]),
        helper.make_node("ReduceMax", ["hidden"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["any"]),
        helper.make_node("If", ["any"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "zero": np.float32(0), "shape": integers([1, 4])}
    artifact = graph(nodes, weights, x=(1, 4), y=(1, 4))
    model = convert(artifact.main_file, "fp16", "test")
    onnx.checker.check_model(model)
    assert on_cpu(model.SerializeToString(), {"x": floats([[1, -2, 3, 0]])})["y"].tolist() == [[1, 0, 3, 0]]
    assert on_cpu(model.SerializeToString(), {"x": floats([[-1, -2, -3, 0]])})["y"].tolist() == [[0.5] * 4]


def test_an_output_that_is_an_input_or_a_constant(graph: Graph, on_cpu: Run) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["unused"])]
    artifact = graph(nodes, {"c": floats([1.5])}, x=("batch", 4), y=("batch", 4))
    model = onnx.load(artifact.main_file)
    for name in ("x", "c"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, artifact.main_file)
    content = convert(artifact.main_file, "fp16", "test").SerializeToString()
    got = on_cpu(content, {"x": floats([[1, -1, 2, 0]])})
    assert got["y"].tolist() == [[1, 0, 2, 0]] and got["c"].tolist() == [1.5] and got["x"][0, 1] == -1


def test_an_output_that_is_also_read_in_fp32_keeps_its_name(graph: Graph, on_cpu: Run) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["y", "last"], ["sum"]),
        helper.make_node("Neg", ["y"], ["minus"]),
    ]
    artifact = graph(nodes, {"last": integers([1])}, x=("batch", 4), y=("batch", 4))
    model = onnx.load(artifact.main_file)
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, artifact.main_file)
    made = convert(artifact.main_file, "fp16", "test")
    onnx.checker.check_model(made)
    got = on_cpu(made.SerializeToString(), {"x": floats([[1, -1, 2, 0]])})
    assert got["y"].tolist() == [[1, 0, 2, 0]] and got["sum"].tolist() == [[3]]


def test_convolutions_are_built_in_bf16(graph: Graph, building: Make) -> None:
    weight = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    artifact = graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": weight}, x=("batch", 3, 8, 8), y=("batch", 2, 6, 6)
    )
    model = convert(artifact.main_file, "bf16", "test")
    assert [item.data_type for item in model.graph.initializer] == [TensorProto.BFLOAT16]
    assert manager().optimize(building(artifact, precision="bf16")).precision == "bf16"


def test_types_that_nobody_knows_are_refused(graph: Graph) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["z"], domain="acme"), helper.make_node("Relu", ["z"], ["y"])]
    artifact = graph(nodes, {}, x=("batch", 4), y=("batch", 4))
    with pytest.raises(ExportError, match="Mystery") as caught:
        convert(artifact.main_file, "fp16", "test")
    assert caught.value.remedy == "use fp32"
