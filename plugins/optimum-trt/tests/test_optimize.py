"""Real builds with tensorrt_rtx, for GPUs that are not here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from optimum_core.errors import ExportError, OptionError, UnavailableError
from optimum_core.plugins import manager
from optimum_core.testing.machine import Machine
from optimum_core.types import Artifact, OptimizeRequest, TensorSpec
from optimum_trt import plugin
from optimum_trt.storage import MODEL, NOTE, read_note

Make = Callable[..., OptimizeRequest]
Graph = Callable[..., Artifact]


def note_of(artifact: Artifact) -> Any:
    return json.loads((artifact.path / NOTE).read_text())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_architectures_build(kind: str, precision: str, tiny: Any, building: Make) -> None:
    source = tiny(kind).artifact
    made = manager().optimize(building(source, precision=precision))
    assert (made.format, made.files, made.precision) == ("tensorrt-engine", (MODEL, NOTE), precision)
    assert (made.inputs, made.outputs) == (source.inputs, source.outputs)
    assert made.main_file.read_bytes()[:4] == b"vtrt"


def test_a_decoder_with_its_cache_builds(gpt2: Any, building: Make) -> None:
    made = manager().optimize(
        building(gpt2.artifact, precision="fp16", shapes=({"batch": 1, "sequence": 1, "past": 31},))
    )
    declared, general = note_of(made)["profiles"]
    assert declared["past_key_values.0.key"] == [[1, 4, 31, 8]] * 3
    assert declared["attention_mask"] == [[1, 32]] * 3
    assert general["past_key_values.0.key"][0] == [1, 4, 0, 8]


@pytest.mark.parametrize("device", ["sm_80", "sm_86", "sm_89", "sm_120", "sm_121"])
def test_every_capability_offered_is_built_for(device: str, linear: Artifact, building: Make) -> None:
    made = manager().optimize(building(linear, device=device))
    assert note_of(made)["capability"] == f"{device[3:-1]}.{device[-1]}"


def test_turing_takes_fp16_alone(linear: Artifact, building: Make) -> None:
    manager().optimize(building(linear, device="sm_75", precision="fp16"))
    with pytest.raises(ExportError, match=r"layer 'body/MatMul'.*FP32 GEMM is not supported") as caught:
        manager().optimize(building(linear, device="sm_75"))
    assert caught.value.remedy == "build in fp16"


def test_what_an_engine_belongs_to_is_recorded(linear: Artifact, building: Make) -> None:
    from importlib.metadata import version

    made = manager().optimize(building(linear, options={"tf32": True}))
    note, content = read_note(made.path, "test"), made.main_file.read_bytes()
    assert (note.module, note.version, note.capability) == ("tensorrt_rtx", version("tensorrt-rtx"), "8.9")
    assert (note.sha256, note.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert note.ahead and note.portable
    step = made.steps[-1]
    assert (step.hook, step.backend, step.tool, step.version) == ("optimize", "trt", "tensorrt-rtx", note.version)
    assert step.options["sha256"] == note.sha256 and step.options["capability"] == "8.9" and step.options["tf32"]
    assert json.dumps(dict(step.options))


def test_one_profile_for_each_declared_shape(linear: Artifact, building: Make) -> None:
    shapes = ({"batch": 3}, {"batch": 100}, {"batch": 3})
    made = manager().optimize(building(linear, shapes=shapes, options={"ranges": {"batch": [2, 4, 8]}}))
    profiles = [profile["x"] for profile in note_of(made)["profiles"]]
    assert profiles == [[[3, 8]] * 3, [[100, 8]] * 3, [[2, 8], [4, 8], [100, 8]]]


def test_longest_lengths_come_down_to_what_a_model_takes(tiny: Any, building: Make) -> None:
    """BERT cuts its table of 64 positions to the sequence; 512 of them do not exist."""
    made = manager().optimize(building(tiny("bert").artifact))
    (general,) = note_of(made)["profiles"]
    assert general["input_ids"] == [[1, 1], [4, 64], [32, 64]]


def test_stated_ranges_are_not_changed(tiny: Any, building: Make) -> None:
    request = building(tiny("bert").artifact, options={"ranges": {"sequence": [1, 100, 512]}})
    with pytest.raises(ExportError, match="violate shape constraints") as caught:
        manager().optimize(request)
    assert "'ranges'" in caught.value.remedy


def test_an_unsupported_operator_is_named(graph: Graph, building: Make) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"], name="body/layer.3/Det")]
    artifact = graph(nodes, {}, x=("batch", 4, 4), y=("batch",))
    with pytest.raises(ExportError, match=r"tensorrt_rtx .* cannot read it: node 'body/layer.3/Det' \(Det\)"):
        manager().optimize(building(artifact))


def test_a_layer_that_cannot_be_built_is_named(graph: Graph, building: Make) -> None:
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"], name="body/Reshape")]
    artifact = graph(nodes, {"to": np.array([3, 5])}, y=(3, 5))
    with pytest.raises(ExportError, match="layer 'body/Reshape'"):
        manager().optimize(building(artifact))


def test_other_types_than_the_artifact_says_are_refused(linear: Artifact, building: Make) -> None:
    wrong = dataclasses.replace(linear, inputs=(TensorSpec(name="x", dtype="int64", shape=("batch", 8)),))
    with pytest.raises(ExportError, match="input 'x' is float32 in the network, not int64"):
        manager().optimize(building(wrong))


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_broken_model_leaves_nothing_behind(
    content: bytes | None, precision: str, linear: Artifact, building: Make
) -> None:
    whole = linear.main_file.read_bytes()
    linear.main_file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    request = building(linear, precision=precision)
    with pytest.raises(ExportError, match=r"model\.onnx"):
        manager().optimize(request)
    assert list(request.output.iterdir()) == []


def test_h100_is_refused_with_what_to_do(linear: Artifact, building: Make) -> None:
    with pytest.raises(UnavailableError, match="does not build for sm_90") as caught:
        manager().optimize(building(linear, device="sm_90"))
    assert "H100" in caught.value.remedy and "ort:cuda" in caught.value.remedy


def test_the_gpu_at_hand_needs_to_be_there(linear: Artifact, building: Make, hardware: Machine) -> None:
    with pytest.raises(UnavailableError, match="no NVIDIA GPU"):
        manager().optimize(building(linear, device="cuda", hardware=hardware()))
    with pytest.raises(OptionError, match="unknown device 'rocm'"):
        manager().optimize(building(linear, device="rocm"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refit": True}, OptionError, "only where their GPU is"),
        ({"timing_cache": "times.bin"}, OptionError, "keeps no timing cache"),
        ({"module": "tensorrt"}, UnavailableError, "tensorrt is not installed"),
        ({"ranges": {"length": [1, 2, 3]}}, OptionError, "no varying axis 'length'"),
    ],
)
def test_options_that_this_module_lacks(
    options: dict[str, Any], error: type[Exception], message: str, linear: Artifact, building: Make
) -> None:
    with pytest.raises(error, match=message):
        manager().optimize(building(linear, options=options))


def test_options_that_it_has(linear: Artifact, building: Make) -> None:
    options = {"module": "tensorrt_rtx", "weight_streaming": True, "optimization_level": 1, "workspace": 1 << 28}
    assert manager().optimize(building(linear, options=options)).main_file.is_file()


def test_levels_and_foreign_precisions_are_refused(linear: Artifact, building: Make) -> None:
    with pytest.raises(OptionError, match="unknown level 'O3'"):
        manager().optimize(building(linear, level="O3"))
    with pytest.raises(OptionError, match="cannot make 'fp8' of 'fp32'"):
        manager().optimize(building(linear, precision="fp8"))


def test_nothing_is_printed(tiny: Any, building: Make, capfd: pytest.CaptureFixture[str]) -> None:
    manager().optimize(building(tiny("bert").artifact))
    assert capfd.readouterr() == ("", "")


def test_weights_beside_the_graph(linear: Artifact, building: Make) -> None:
    model = onnx.load(linear.main_file)
    onnx.save_model(model, linear.main_file, save_as_external_data=True, location="weights", size_threshold=16)
    beside = dataclasses.replace(linear, files=("model.onnx", "weights"))
    for precision in ("fp32", "fp16"):
        assert manager().optimize(building(beside, precision=precision)).main_file.is_file()


def test_not_ours(linear: Artifact, building: Make) -> None:
    assert plugin.optimize(building(linear, backend="other")) is None


def test_a_model_of_fixed_shapes(graph: Graph, building: Make, tmp_path: Path) -> None:
    artifact = graph([helper.make_node("Relu", ["x"], ["y"])], {}, x=(2, 4), y=(2, 4))
    (profile,) = note_of(manager().optimize(building(artifact)))["profiles"]
    assert profile == {"x": [[2, 4]] * 3}
