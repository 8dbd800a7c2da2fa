"""8-bit floats are written here and multiplied elsewhere; here their values are computed in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optimum_core.errors import ExportError, OptionError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, TensorSpec
from optimum_ort import plugin
from optimum_ort.session import OrtSession

Make = Callable[..., QuantizeRequest]
Load = Callable[..., OrtSession]
FP8 = QuantizeConfig(weights="fp8", activations="fp8")


def _x(rows: int = 32, seed: int = 1) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)}


def _quantized(request: QuantizeRequest) -> Artifact:
    made = plugin.quantize(request)
    assert made is not None
    return made


def _graph(artifact: Artifact) -> Any:
    model = onnx.load(artifact.main_file)
    onnx.checker.check_model(model, full_check=True)
    return model.graph


def _constants(graph: Any) -> dict[str, Any]:
    return {item.name: item for item in graph.initializer}


@pytest.mark.parametrize("per_channel", [None, False])
def test_values_are_those_of_the_format(
    per_channel: bool | None, linear: Artifact, weight: np.ndarray[Any, Any], quantize_request: Make, load: Load
) -> None:
    """The results of onnxruntime are, rounding for rounding, those of the format."""
    config = QuantizeConfig(weights="fp8", per_channel=per_channel)
    made = _quantized(quantize_request(linear, config, calibration=[_x()]))
    assert (made.precision, made.steps[-1].options["activations"]) == ("fp8", "fp8")
    graph = _graph(made)
    constants = _constants(graph)
    first, second = (node for node in graph.node if node.op_type == "DequantizeLinear")
    of_weight, of_x = (first, second) if first.input[0] in constants else (second, first)
    scale = numpy_helper.to_array(constants[of_weight.input[1]])
    scale_x = numpy_helper.to_array(constants[of_x.input[1]])
    assert scale.shape == ((64,) if per_channel is None else ())
    assert constants[of_weight.input[2]].data_type == TensorProto.FLOAT8E4M3FN

    def rounded(values: Any, by: Any) -> Any:
        return np.clip(values / by, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * by

    given = {"x": 1.5 * _x(seed=2)["x"]}  # beyond what was calibrated on: the format's largest, not NaN
    want = np.maximum(rounded(given["x"], scale_x) @ rounded(weight, scale), 0)
    got = np.asarray(load(made).run(given)["y"])
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    exact = np.maximum(given["x"] @ weight, 0)
    assert np.abs(got - exact).max() > 1e-3 * np.abs(exact).max()


def test_scales_take_the_largest_value_to_448_and_keep_in_16_bits(
    linear: Artifact, weight: np.ndarray[Any, Any], quantize_request: Make
) -> None:
    batches = [_x(seed=seed) for seed in (1, 2, 3)]
    graph = _graph(_quantized(quantize_request(linear, FP8, calibration=batches)))
    scales = [numpy_helper.to_array(item) for name, item in _constants(graph).items() if name.endswith("_scale")]
    by_channel = next(scale for scale in scales if scale.ndim)
    of_x = next(scale for scale in scales if not scale.ndim)
    for scale, largest in (
        (by_channel, np.abs(weight).max(axis=0)),
        (of_x, max(np.abs(batch["x"]).max() for batch in batches)),
    ):
        assert np.all(scale * 448 >= largest) and np.all(scale * 448 <= largest * (1 + 2**-7))
        for narrow in (np.float16, ml_dtypes.bfloat16):
            assert np.array_equal(scale.astype(narrow).astype(np.float32), scale)


def test_methods_of_calibration_differ_as_they_say(linear: Artifact, quantize_request: Make) -> None:
    batches = [{"x": factor * _x(256)["x"]} for factor in (1, 3)]
    batches[1]["x"][0, 0] = 100
    found = {}
    for method in ("minmax", "moving-average", "percentile"):
        config = QuantizeConfig(weights="fp8", calibration=method, percentile=99.0 if method == "percentile" else None)
        graph = _graph(_quantized(quantize_request(linear, config, calibration=batches)))
        scale = next(i for n, i in _constants(graph).items() if n.endswith("_scale") and not i.dims)
        found[method] = 448 * float(numpy_helper.to_array(scale))
    assert found["minmax"] == pytest.approx(100, rel=0.01)
    assert found["percentile"] < found["moving-average"] < found["minmax"]


@pytest.fixture(scope="module")
def newer(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Any]:
    """The tiny BERT in an opset that has 8-bit floats."""
    source, cases = bert
    folder = tmp_path_factory.mktemp("newer")
    model = onnx.version_converter.convert_version(onnx.load(source.main_file), 19)
    onnx.save(model, folder / source.files[0])
    return dataclasses.replace(source, path=folder), cases


def test_a_transformer_stays_near_eager(newer: Any, quantize_request: Make, load: Load) -> None:
    source, cases = newer
    request = quantize_request(source, FP8, calibration=[inputs for inputs, _ in cases])
    made = _quantized(request)
    graph = _graph(made)
    readers = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(readers) == len(set(readers)), "query, key and value read one rounded tensor"
    for inputs, want in cases:
        got = next(iter(load(made).run(inputs).values()))
        got, want = np.asarray(got).ravel(), np.asarray(want).ravel()
        assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > 0.995


def test_convolutions_behind_relu_have_the_values_of_the_format(
    tmp_path: Path, quantize_request: Make, load: Load
) -> None:
    """Onnxruntime's fusions for integers would change them."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((16, 16, 3, 3)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("Conv", ["c", "w"], ["y"], name="second"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 16, size, size])
        for name, size in (("x", 10), ("y", 5))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), tmp_path / "m.onnx")
    specs = [TensorSpec(name=n, dtype="float32", shape=("batch", 16, s, s)) for n, s in (("x", 10), ("y", 5))]
    source = Artifact(format="onnx", path=tmp_path, files=("m.onnx",), inputs=(specs[0],), outputs=(specs[1],))
    x = {"x": rng.standard_normal((2, 16, 10, 10)).astype(np.float32)}
    made = _quantized(quantize_request(source, FP8, calibration=[x]))
    want = ReferenceEvaluator(str(made.main_file)).run(None, x)[0]
    got = np.asarray(load(made).run(x)["y"])
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_excluded_layers_stay(newer: Any, quantize_request: Make) -> None:
    source, cases = newer
    calibration = [inputs for inputs, _ in cases]
    everything = _graph(_quantized(quantize_request(source, FP8, calibration=calibration)))
    config = QuantizeConfig(weights="fp8", exclude=("*encoder.layer.0",))
    some = _graph(_quantized(quantize_request(source, config, calibration=calibration)))
    weights = [
        sum(item.data_type == TensorProto.FLOAT8E4M3FN and len(item.dims) == 2 for item in graph.initializer)
        for graph in (everything, some)
    ]
    assert weights[0] - weights[1] == 6, "query, key, value and three more"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activations", "int8"),
        ("symmetric", False),
        ("calibration", "entropy"),
        ("reduce_range", True),
        ("form", "qoperator"),
        ("smooth", 0.5),
    ],
)
def test_what_floats_do_not_have_is_refused(field: str, value: Any, linear: Artifact, quantize_request: Make) -> None:
    config = QuantizeConfig(**{"weights": "fp8", field: value})
    with pytest.raises(OptionError, match=f"field '{field}'"):
        plugin.quantize(quantize_request(linear, config, calibration=[_x()]))


def test_opsets_before_8_bit_floats(linear: Artifact, quantize_request: Make, load: Load) -> None:
    model = onnx.load(linear.main_file)
    for opset in (18, 17):
        model.opset_import[0].version = opset
        onnx.save(model, linear.main_file)
        request = quantize_request(linear, FP8, calibration=[_x()])
        if opset == 17:
            with pytest.raises(OptionError, match="opset 17"):
                plugin.quantize(request)
        else:
            load(_quantized(request)).run(_x())


def test_activations_without_end_are_refused(linear: Artifact, quantize_request: Make) -> None:
    batch = _x()
    batch["x"][0, 0] = np.inf
    with pytest.raises(ExportError, match="tensor 'x' is inf"):
        plugin.quantize(quantize_request(linear, FP8, calibration=[batch]))
