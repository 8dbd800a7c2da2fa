from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.backend import manager
from optimum_core.testing.quantizing import cosine, weight_only
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, TensorSpec
from optimum_core.verify.empty_rows import EMPTY
from optimum_inc import integer, plugin, programs, quantize
from optimum_inc.kernels import Int8Linear
from optimum_inc.package import integer_calls
from optimum_inc.session import InductorSession
from optimum_inc.silencing import quiet

pytest.importorskip("neural_compressor", reason="the extra `quantize` is not installed")

Make = Callable[..., QuantizeRequest]
Load = Callable[..., InductorSession]
Run = Callable[[Any], Any]


def least_cosine(model: Any, call: Run) -> float:
    """Over all shapes and paddings that the model was not traced with, but a row without tokens: no data has one."""
    found = []
    for case in (case for case in model.cases if case.name != EMPTY):
        outputs = call(case.inputs)
        for name, expected in case.outputs.items():
            one, other = np.asarray(outputs[name], np.float64), np.asarray(expected, np.float64)
            assert one.shape == other.shape, (case.name, name)
            valid = case.valid.get("sequence")
            if valid is not None and one.shape[:2] == valid.shape:
                one, other = one[valid], other[valid]
            assert not np.array_equal(one, other), "that is the float model"
            found.append(cosine(one, other))
    return min(found)


STATIC = {
    "minmax": (QuantizeConfig(form="qdq"), 0.99),
    "moving average": (QuantizeConfig(form="qdq", calibration="moving-average"), 0.98),
    "entropy": (QuantizeConfig(form="qdq", calibration="entropy"), 0.98),
    "percentile": (QuantizeConfig(form="qdq", calibration="percentile", percentile=99.9), 0.97),
    "reduced": (QuantizeConfig(form="qdq", reduce_range=True), 0.98),
    "signed": (QuantizeConfig(form="qdq", activations="int8"), 0.98),
}


#: The configurations that are written as ONNX too: unsigned and signed activations are written in other words.
WRITTEN = ("minmax", "signed")


@pytest.fixture(scope="module")
def graph_of(exported: Artifact, quantize_request: Make) -> Callable[[QuantizeConfig], Any]:
    """The quantized graph, from which every format is written."""

    def make(config: QuantizeConfig) -> Any:
        with quiet():
            program = programs.load(exported.main_file, exported.inputs, exported.outputs, "here")
            return quantize.quantized_graph(quantize_request(exported, config), program, "here")[0]

    return make


@pytest.fixture(scope="module")
def rounded(graph_of: Callable[[QuantizeConfig], Any]) -> dict[str, Any]:
    return {name: graph_of(config) for name, (config, _) in STATIC.items()}


def graph_run(graph: Any, artifact: Artifact) -> Run:
    def call(inputs: Any) -> dict[str, Any]:
        with torch.no_grad():
            made = graph(*(torch.as_tensor(inputs[spec.name]) for spec in artifact.inputs))
        return dict(zip((spec.name for spec in artifact.outputs), made, strict=True))

    return call


@pytest.mark.parametrize("name", STATIC)
def test_every_static_configuration_is_near_eager(
    name: str, rounded: dict[str, Any], exported: Artifact, bert: Any
) -> None:
    assert least_cosine(bert, graph_run(rounded[name], exported)) >= STATIC[name][1]


def onnx_run(artifact: Artifact) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact.main_file, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.outputs]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """ONNX of one configuration, what writing it printed, and what it left in the working directory."""

    artifact: Artifact
    printed: tuple[str, str]
    left: tuple[Path, ...]


_written: dict[str, Written] = {}


@pytest.fixture
def written(
    exported: Artifact,
    quantize_request: Make,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Written]:
    """Written for the first test that asks, where output is captured."""
    monkeypatch.chdir(tmp_path)
    for name in WRITTEN if not _written else ():
        artifact = manager().quantize(quantize_request(exported, STATIC[name][0]))
        printed = capfd.readouterr()
        _written[name] = Written(artifact=artifact, printed=(printed.out, printed.err), left=tuple(tmp_path.iterdir()))
    return _written


@pytest.fixture
def as_onnx(written: dict[str, Written]) -> dict[str, Artifact]:
    return {name: item.artifact for name, item in written.items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_onnx_for_others_is_near_eager(name: str, as_onnx: dict[str, Artifact], bert: Any) -> None:
    pytest.importorskip("onnxruntime")
    artifact = as_onnx[name]
    assert (artifact.format, artifact.files, artifact.precision) == ("onnx", ("model.onnx",), "int8")
    assert least_cosine(bert, onnx_run(artifact)) >= STATIC[name][1]


def test_onnx_runs_on_openvino(as_onnx: dict[str, Artifact], bert: Any) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(as_onnx["minmax"].main_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def call(inputs: Any) -> dict[str, Any]:
        return {"logits": compiled(dict(inputs))["logits"]}

    assert least_cosine(bert, call) >= 0.99


def initializers(artifact: Artifact) -> dict[str, Any]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(artifact.main_file).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_onnx_holds_integers_and_the_ranges_of_the_graph(as_onnx: dict[str, Artifact], rounded: dict[str, Any]) -> None:
    for name, artifact in as_onnx.items():
        matrices = [value for value in initializers(artifact).values() if value.ndim == 2 and value.size >= 4096]
        assert matrices and all(value.dtype == np.int8 for value in matrices), name
        assert sorted(_written_scales(artifact)) == pytest.approx(sorted(_scales(rounded[name])), rel=1e-5), name


def _written_scales(artifact: Artifact) -> list[float]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(artifact.main_file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"
    }
    return [float(values[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"]


def _scales(graph: Any) -> list[float]:
    target = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return [float(node.args[1]) for node in graph.graph.nodes if node.target == target]


def _weights(graph: Any, *shapes: tuple[int, int]) -> list[torch.Tensor]:
    """Return the constants of these shapes that the graph reads: integers, or weights of the model."""
    read = (node.target for node in graph.graph.nodes if node.op == "get_attr")
    found = (functools.reduce(getattr, target.split("."), graph) for target in dict.fromkeys(read))
    return [tensor for tensor in found if tuple(tensor.shape) in shapes]


def test_ranges_are_those_that_were_asked_for(
    rounded: dict[str, Any], graph_of: Callable[[QuantizeConfig], Any]
) -> None:
    (reduced,) = _weights(rounded["reduced"], (128, 64))
    assert (reduced.dtype, int(reduced.min()) >= -64, int(reduced.max()) <= 63) == (torch.int8, True, True)
    (full,) = _weights(graph_of(QuantizeConfig(form="qdq", reduce_range=False)), (128, 64))
    assert int(full.int().abs().max()) > 64
    scales = {name: sorted(_scales(graph)) for name, graph in rounded.items()}
    assert sum(scales["percentile"]) < sum(scales["minmax"])
    assert scales["entropy"] != scales["minmax"] != scales["moving average"]


def test_a_layer_that_is_excluded_stays_float(graph_of: Callable[[QuantizeConfig], Any]) -> None:
    graph = graph_of(QuantizeConfig(form="qdq", exclude=("bert.encoder.layer.0.intermediate",)))
    kinds = sorted(str(tensor.dtype) for tensor in _weights(graph, (128, 64), (64, 128)))
    assert kinds == ["torch.float32", "torch.int8"]  # what goes up, and what comes down


def test_static_int8_is_near_eager_and_compiled(package: Artifact, exported: Artifact, bert: Any, load: Load) -> None:
    assert (package.format, package.files, package.precision) == ("torch-inductor", ("model.pt2",), "int8")
    assert sorted(path.name for path in package.path.iterdir()) == ["model.pt2"]
    calls = package.steps[-1].options["calls"]
    assert sum(calls.values()) == 8 and all("qlinear" in name for name in calls)
    assert integer_calls(package.main_file) == calls
    session = load(package)
    assert least_cosine(bert, session.run) >= 0.99
    session.close()


def test_dynamic_int8_is_near_eager(exported: Artifact, bert: Any, graph_of: Callable[[QuantizeConfig], Any]) -> None:
    """The conformance kit compiles one, runs it, and compares it with eager."""
    assert least_cosine(bert, graph_run(graph_of(QuantizeConfig(scheme="dynamic")), exported)) >= 0.99


def test_a_package_computes_what_was_rounded(exported: Artifact, bert: Any, quantize_request: Make, load: Load) -> None:
    """Compiled, saved and opened again: the graph of integers, with its inputs divided."""
    config = weight_only(weights="int4", group_size=32, algorithm="awq")
    request = quantize_request(exported, config)
    written = manager().quantize(request)
    chosen = written.steps[-1].options
    assert written.precision == "int4"
    assert chosen["config"] == config.to_dict()
    assert all(any(kernel in call for call in chosen["calls"]) for kernel in ("int4pack", "int8pack"))
    assert (chosen["algorithm"], chosen["config"]["algorithm"]) == ("awq", "awq")
    assert (chosen["layers"], chosen["batches"]) == ({"int8": 1, "int4": 6}, 6)  # five labels stay float
    program = programs.load(exported.main_file, exported.inputs, exported.outputs, "here")
    graph, facts = quantize.quantized_graph(request, program, "here")
    assert facts.items() <= chosen.items()
    session = load(written)
    assert least_cosine(bert, session.run) >= 0.95
    for case in bert.cases:
        got = session.run(case.inputs)["logits"]
        with torch.no_grad():
            (want,) = graph(*(torch.as_tensor(case.inputs[spec.name]) for spec in exported.inputs))
        assert np.abs(np.asarray(got) - want.numpy()).max() < 1e-3 * float(want.abs().max()), case.name
    session.close()


def test_int8_weights_of_gpt2_are_near_eager_and_call_kernels_for_integers(
    gpt2: Any, quantize_request: Make, tmp_path: Path
) -> None:
    """Its layers are no `nn.Linear`, and other tools have handed the float model back for it."""
    exported = plugin.export(gpt2.request(tmp_path))
    assert exported is not None
    program = programs.load(exported.main_file, exported.inputs, exported.outputs, "here")
    graph, facts = quantize.quantized_graph(quantize_request(exported, weight_only()), program, "here")
    assert facts["layers"] == {"int8": 5, "int4": 0}
    assert sum(isinstance(layer, Int8Linear) for layer in graph.modules()) == 5
    assert least_cosine(gpt2, graph_run(graph, exported)) >= 0.99


class Unused(torch.nn.Module):
    """A layer whose result is not used, as the pooler of a sentence encoder's BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
        self.activation = torch.nn.Tanh()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.used(values)
        self.activation(self.unused(found))
        return found


def test_a_layer_whose_result_is_not_used_is_left_out(hardware: Any) -> None:
    torch.manual_seed(0)
    module, values = Unused().eval(), torch.randn(4, 16)
    program = torch.export.export(module, (values,))
    specs = (TensorSpec(name="values", dtype="float32", shape=(4, 16)),)
    choices = integer.choose(QuantizeConfig(form="qdq"), hardware())
    with quiet():
        graph = integer.quantize_products(program, choices, frozenset(), [{"values": values.numpy()}], specs, "here")
    got, want = graph(values), module(values)
    assert not torch.equal(got, want) and torch.nn.functional.cosine_similarity(got, want).min() > 0.99


def test_it_is_silent_and_leaves_nothing_behind(written: dict[str, Written]) -> None:
    for item in written.values():
        assert (item.printed, item.left) == (("", ""), ())
