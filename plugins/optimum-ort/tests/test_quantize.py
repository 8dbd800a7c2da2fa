from __future__ import annotations

import dataclasses
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_core import accelerate
from optimum_core.backend import detect, manager, overflows
from optimum_core.errors import ExportError, OptionError
from optimum_core.testing.machine import Machine
from optimum_core.testing.quantizing import cosine, weight_only
from optimum_core.testing.tiny import size
from optimum_core.types import Artifact, OptimizeRequest, QuantizeConfig, QuantizeRequest
from optimum_ort import calibration, optimize, plugin, storage
from optimum_ort.session import OrtSession

Make = Callable[..., QuantizeRequest]
Load = Callable[..., OrtSession]
Mixed = tuple[Artifact, Callable[[Any], Any]]
Bert = tuple[Artifact, list[tuple[dict[str, Any], Any]]]

STATIC, DYNAMIC = QuantizeConfig(), QuantizeConfig(scheme="dynamic")


# With the least cosine to the eager model that each has to keep, on random weights.
CONFIGS = {
    "static": (STATIC, 0.995),
    "static, one scale": (QuantizeConfig(per_channel=False), 0.99),
    "static, entropy": (QuantizeConfig(calibration="entropy"), 0.95),
    "static, percentile": (QuantizeConfig(calibration="percentile", percentile=99.99), 0.99),
    "static, moving average": (QuantizeConfig(calibration="moving-average"), 0.99),
    "static, operators": (QuantizeConfig(form="qoperator"), 0.99),
    "static, signed": (QuantizeConfig(activations="int8"), 0.99),
    "static, unsigned": (QuantizeConfig(weights="uint8"), 0.99),
    "static, asymmetric": (QuantizeConfig(symmetric=False, reduce_range=False), 0.99),
    "dynamic": (DYNAMIC, 0.995),
    "dynamic, one scale": (QuantizeConfig(scheme="dynamic", per_channel=False), 0.99),
    "dynamic, unsigned": (QuantizeConfig(scheme="dynamic", weights="uint8"), 0.99),
    "int8 weights": (weight_only(), 0.999),
    "int8 weights, asymmetric": (weight_only(symmetric=False), 0.999),
    "int8 weights, one scale": (weight_only(per_channel=False), 0.999),
    "uint8 weights": (weight_only(weights="uint8"), 0.999),
    "uint8 weights, symmetric": (weight_only(weights="uint8", symmetric=True), 0.999),
    "int4 weights": (weight_only(weights="int4"), 0.98),
    "int4 weights, hqq": (weight_only(weights="int4", algorithm="hqq", group_size=16), 0.98),
    "int4 weights, symmetric": (weight_only(weights="uint4", symmetric=True, group_size=16), 0.98),
    "int4 weights, plain": (weight_only(weights="int4", form="qdq", symmetric=True), 0.98),
    "nf4 weights": (weight_only(weights="nf4"), 0.98),
    "fp16 weights": (weight_only(weights="fp16"), 0.99999),
}


def drawn(seed: int, batch: int = 4, length: int = 12) -> dict[str, Any]:
    return {"ids": np.random.default_rng(seed).integers(0, 64, (batch, length), np.int64)}


BATCHES = [drawn(seed) for seed in range(6)]


def operators(artifact: Artifact) -> list[str]:
    return [node.op_type for node in onnx.load(artifact.main_file, load_external_data=False).graph.node]


def float_weights(artifact: Artifact) -> set[tuple[int, ...]]:
    """Shapes of the large weights that are still float, the dimensions sorted."""
    tensors = onnx.load(artifact.main_file).graph.initializer
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT]
    return {tuple(sorted(array.shape)) for array in arrays if array.ndim > 1 and array.size >= 1000}


#: For what does not depend on who exported.
one_exporter = pytest.mark.parametrize("mixed", ["torchscript"], indirect=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_near_eager(
    name: str, mixed: Mixed, quantize_request: Make, load: Load, tmp_path: Path, hardware: Machine
) -> None:
    (artifact, eager), (config, least) = mixed, CONFIGS[name]
    request = quantize_request(artifact, config, calibration=BATCHES)
    written = manager().quantize(request)
    assert sorted(path.name for path in request.output.iterdir()) == sorted(written.files)
    assert written.precision == config.weights.removeprefix("u")
    assert size(written) < size(artifact)
    fresh = drawn(50, batch=5, length=17)
    got = np.asarray(load(written).run(fresh)["y"])
    assert cosine(got, eager(fresh["ids"])) >= least
    assert not np.array_equal(got, eager(fresh["ids"]))

    output = tmp_path / "all"
    output.mkdir()
    faster = optimize.optimize(
        OptimizeRequest(
            backend="ort", artifact=written, device="cpu", precision="fp32", hardware=hardware(), output=output
        )
    )
    assert faster.precision == written.precision
    np.testing.assert_allclose(np.asarray(load(faster).run(fresh)["y"]), got, atol=1e-5)


@pytest.mark.parametrize("config", [STATIC, DYNAMIC, weight_only(), weight_only(weights="int4")])
@pytest.mark.parametrize("level", ["basic", "extended", "fusions"])
def test_levels_takes_a_quantized_file(
    level: str,
    config: QuantizeConfig,
    bert: Bert,
    quantize_request: Make,
    optimize_request: Callable[..., OptimizeRequest],
    load: Load,
) -> None:
    artifact, cases = bert
    written = manager().quantize(quantize_request(artifact, config, calibration=[case for case, _ in cases]))
    want = np.asarray(load(written).run(cases[1][0])["last_hidden_state"])
    faster = optimize.optimize(optimize_request(written, level=level))
    assert cosine(np.asarray(load(faster).run(cases[1][0])["last_hidden_state"]), want) > 0.999


def test_fusions_for_float_models_are_refused(
    bert: Bert, quantize_request: Make, optimize_request: Callable[..., OptimizeRequest]
) -> None:
    written = manager().quantize(quantize_request(bert[0], DYNAMIC))
    with pytest.raises(ExportError, match="written for float models"):
        optimize.optimize(optimize_request(written, level="ort_fusions"))


@pytest.mark.parametrize("config", [STATIC, DYNAMIC, weight_only(weights="int4")])
def test_masks_and_lengths_still_count(config: QuantizeConfig, bert: Bert, quantize_request: Make, load: Load) -> None:
    artifact, cases = bert
    session = load(manager().quantize(quantize_request(artifact, config, calibration=[case for case, _ in cases])))
    for inputs, eager in cases:
        mask = inputs["attention_mask"].astype(bool)
        assert cosine(np.asarray(session.run(inputs)["last_hidden_state"])[mask], eager[mask]) > 0.95


@pytest.mark.parametrize(
    "name", ["static", "static, operators", "dynamic", "int8 weights", "int4 weights", "nf4 weights"]
)
def test_excluded_layers_stay_in_float(name: str, mixed: Mixed, quantize_request: Make) -> None:
    config = CONFIGS[name][0]
    left = {(3, 32, 48)} if config.scheme == "dynamic" or config.weights in ("int4", "nf4") else set()
    everything = manager().quantize(quantize_request(mixed[0], config, calibration=BATCHES))
    assert float_weights(everything) == left
    named = dataclasses.replace(config, exclude=("head", "tab*"))
    part = manager().quantize(quantize_request(mixed[0], named, calibration=BATCHES))
    assert float_weights(part) == left | {(40, 64), (40, 40), (32, 64)}


def test_an_excluded_layer_computes_as_before(mixed: Mixed, quantize_request: Make, load: Load) -> None:
    artifact, eager = mixed
    config = QuantizeConfig(exclude=("table", "convolution", "wide", "head.0"))
    written = manager().quantize(quantize_request(artifact, config, calibration=BATCHES))
    assert float_weights(written) == {(32, 64), (3, 32, 48), (48, 64), (40, 64)}
    assert operators(written).count("QuantizeLinear") == 1
    assert cosine(np.asarray(load(written).run(BATCHES[0])["y"]), eager(BATCHES[0]["ids"])) > 0.999


@pytest.mark.parametrize("weights", ["int4", "nf4"])
def test_the_ratio_spares_the_most_sensitive(weights: str, mixed: Mixed, quantize_request: Make, load: Load) -> None:
    artifact, eager = mixed
    counts = {}
    for ratio in (1, 0.67, 0.3):
        config = weight_only(weights=weights, ratio=ratio, group_size=16)
        written = manager().quantize(quantize_request(artifact, config))
        found = operators(written)
        counts[ratio] = (found.count("MatMulNBits") + found.count("MatMulBnb4"), found.count("DequantizeLinear"))
        assert cosine(np.asarray(load(written).run(BATCHES[0])["y"]), eager(BATCHES[0]["ids"])) > 0.98
    assert counts == {1: (3, 0), 0.67: (2, 1), 0.3: (1, 2)}


def test_a_name_that_matches_nothing(mixed: Mixed, quantize_request: Make) -> None:
    request = quantize_request(mixed[0], QuantizeConfig(exclude=("had",)), calibration=BATCHES)
    with pytest.raises(OptionError, match="'had', which is no layer") as caught:
        plugin.quantize(request)
    assert "head.0" in caught.value.remedy
    assert list(request.output.iterdir()) == []


def one_look(path: Path, method: str, tmp_path: Path) -> Any:
    """Return the ranges that onnxruntime finds when it holds all activations at once."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    methods = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
    options: dict[str, Any] = {"symmetric": False, "moving_average": method == "moving-average"}
    if method == "entropy":
        options |= {"num_bins": 1024, "num_quantized_bins": 128}
    calibrator = create_calibrator(
        path,
        ["MatMul", "Gemm", "Conv"],
        augmented_model_path=str(tmp_path / "one-look.onnx"),
        calibrate_method=methods.get(method, CalibrationMethod.MinMax),
        extra_options=options,
    )
    calibrator.collect_data(calibration.Reader(BATCHES))
    return calibrator.compute_data()


@one_exporter
@pytest.mark.parametrize("method", ["minmax", "moving-average", "entropy", "percentile"])
def test_ranges_batch_by_batch_are_those_of_one_look(method: str, mixed: Mixed, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(onnx.load(mixed[0].main_file), path)
    config = QuantizeConfig(calibration=method)
    found = calibration.find_ranges(path, config, BATCHES, ["MatMul", "Gemm", "Conv"], tmp_path, external=False)
    want = one_look(path, method, tmp_path)
    assert set(found.keys()) == set(want.keys())
    for name, data in want.items():
        np.testing.assert_array_equal(found[name].range_value, data.range_value, err_msg=name)


class Watched:
    """Batches that are made when asked for, and count how many of them are alive."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[Any]] = []
        self.most = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for seed in range(4):
            gc.collect()
            self.most = max(self.most, sum(ref() is not None for ref in self.alive))
            ids = drawn(seed, batch=2 + seed % 2)["ids"]
            self.alive.append(weakref.ref(ids))
            batch = {"ids": ids}
            del ids
            yield batch
            del batch


@one_exporter
@pytest.mark.parametrize("method", ["minmax", "moving-average", "entropy", "percentile"])
def test_one_batch_is_held_at_a_time(method: str, mixed: Mixed, quantize_request: Make) -> None:
    watched = Watched()
    manager().quantize(quantize_request(mixed[0], QuantizeConfig(calibration=method), calibration=watched))
    assert watched.most == 0


@one_exporter
def test_without_wide_sums_weights_get_seven_bits(mixed: Mixed, hardware: Machine, quantize_request: Make) -> None:
    def largest(features: set[str]) -> int:
        machine = hardware(architecture="x86_64", features=features)
        written = manager().quantize(quantize_request(mixed[0], config, calibration=BATCHES, hardware=machine))
        tensors = onnx.load(written.main_file).graph.initializer
        rounded = [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8]
        return max(int(np.abs(array.astype(int)).max()) for array in rounded if array.ndim > 1)

    config = QuantizeConfig(exclude=("table",))
    assert largest({"avx2"}) <= 64
    assert largest({"avx2", "avx512_vnni"}) == 127


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_a_given_file_of_all_bits_does_not_overflow(domain: str, tmp_path: Path) -> None:
    """On x86 without VNNI, ONNX Runtime would return half of these sums, compared with onnx's evaluator or not."""
    weights = np.full((64, 8), 127, np.int8)
    weights[:, 1::2] = -127
    constants = {"w": weights, "scale": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
    node = helper.make_node
    if domain:
        nodes = [node("DynamicQuantizeMatMul", ["x", "w", "scale", "zero"], ["y"], domain=domain)]
    else:
        nodes = [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "w", "z", "zero"], ["i"]),
            node("Cast", ["i"], ["f"], to=TensorProto.FLOAT), node("Mul", ["s", "scale"], ["both"]),
            node("Mul", ["f", "both"], ["y"]),
        ]  # fmt: skip
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 64), ("y", 8))
    )
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph(nodes, "given", [x], [y], held)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    fast = accelerate(tmp_path / "model.onnx", target="ort", cache_dir=tmp_path / "cache")
    inputs = np.random.default_rng(3).uniform(0.9, 1, (3, 64)).astype(np.float32)
    np.testing.assert_allclose(fast(x=inputs).y, inputs @ (weights * np.float32(0.01)), rtol=0.01)
    assert fast.report is not None
    assert any("adds 8-bit products in 16 bits" in note for note in fast.report.notes) == overflows(detect().cpu)


def test_the_artifact_tells_what_was_done(bert: Bert, quantize_request: Make) -> None:
    artifact, cases = bert
    config = QuantizeConfig(exclude=("model.embeddings",))
    request = quantize_request(artifact, config, calibration=[case for case, _ in cases])
    written = manager().quantize(request)
    assert (written.path, written.files, written.inputs) == (request.output, ("model.onnx",), artifact.inputs)
    (step,) = written.steps
    assert (step.hook, step.backend, step.tool) == ("quantize", "ort", "onnxruntime")
    assert step.options["config"] == config.to_dict()
    assert (step.options["form"], step.options["reduce_range"], step.options["calibration"]) == ("qdq", True, "minmax")
    assert (step.options["skipped"], step.options["embeddings"]) == ({}, 0)


def test_a_step_that_refuses_the_graph_is_recorded(linear: Artifact, quantize_request: Make, load: Load) -> None:
    model = onnx.load(linear.main_file)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 8, 8]), "shape"))
    square = onnx.helper.make_node("Reshape", ["z", "shape"], ["square"])
    # No tool infers the shape of this operator of onnxruntime's own.
    inverse = onnx.helper.make_node("Inverse", ["square"], ["inverse"], domain="com.microsoft")
    flat = onnx.helper.make_node("Flatten", ["inverse"], ["y"])
    del graph.node[1]
    graph.node.extend([square, inverse, flat])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, linear.main_file)
    written = manager().quantize(quantize_request(linear, DYNAMIC))
    assert list(written.steps[0].options["skipped"]) == ["symbolic shape inference"]
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    assert np.asarray(load(written).run({"x": x})["y"]).shape == (64, 64)


@one_exporter
def test_a_quantized_model_is_not_quantized_again(mixed: Mixed, quantize_request: Make) -> None:
    once = manager().quantize(quantize_request(mixed[0], weight_only()))
    for artifact in (once, dataclasses.replace(once, precision="fp32")):
        with pytest.raises(OptionError, match=r"cannot quantize 'int8'|quantized already"):
            plugin.quantize(quantize_request(artifact, DYNAMIC))


@one_exporter
def test_nothing_is_printed_and_no_path_is_added(
    mixed: Mixed, quantize_request: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.path)
    for name in ("static, entropy", "dynamic", "int4 weights", "nf4 weights"):
        manager().quantize(quantize_request(mixed[0], CONFIGS[name][0], calibration=BATCHES))
    assert sys.path == before
    assert capfd.readouterr() == ("", "")


@one_exporter
def test_nothing_is_left_in_the_working_directory(
    mixed: tuple[Artifact, Any],
    quantize_request: Callable[..., QuantizeRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # onnxruntime's symbolic shape inference saves graphs that it gives up on, with all their weights, where it stands.
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    plugin.quantize(quantize_request(mixed[0], QuantizeConfig(scheme="dynamic")))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("within", [False, True], ids=["graph", "branches"])
def test_weights_too_large_for_one_file_are_beside_it(
    within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 2 GiB protobuf gives no size of a whole model: those of the weights are added up, in branches too."""
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 10_000)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 32])
    weight = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "branch", [], [y], [weight])
    chosen = helper.make_tensor_value_info("chosen", TensorProto.BOOL, [])
    choice = helper.make_node("If", ["chosen"], ["y"], then_branch=branch, else_branch=branch)
    whole = helper.make_graph([choice], "whole", [chosen], [y])
    model = helper.make_model(whole if within else branch, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    storage.write_model(model, tmp_path, external=False)
    assert storage.written_files(tmp_path) == (("model.onnx", "model.onnx.data") if within else ("model.onnx",))
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(
        None, {"chosen": np.array(True)} if within else {}
    )
    assert found.sum() == 64 * 32
