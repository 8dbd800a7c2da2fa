from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from optimum_core.backend import manager, sums_widely
from optimum_core.errors import OptionError, SessionError
from optimum_core.testing.machine import Machine
from optimum_core.testing.quantizing import cosine, weight_only
from optimum_core.testing.tiny import size
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_core.verify.empty_rows import EMPTY
from optimum_openvino.devices import cpu_schemes, support
from optimum_openvino.session import OvSession

pytest.importorskip("nncf", reason="the extra `quantize` is not installed")

Make = Callable[..., QuantizeRequest]
Load = Callable[..., OvSession]

STATIC, DYNAMIC = QuantizeConfig(), QuantizeConfig(scheme="dynamic")
DYNAMIC4 = dataclasses.replace(DYNAMIC, weights="int4")


# With the least cosine to the eager model that each has to keep, on random weights.
CONFIGS = {
    "static": (STATIC, 0.99),
    "static, percentile": (QuantizeConfig(calibration="percentile", percentile=99.99), 0.98),
    "static, moving average": (QuantizeConfig(calibration="moving-average"), 0.98),
    "static, signed": (QuantizeConfig(activations="int8"), 0.97),
    "static, one scale": (QuantizeConfig(per_channel=False), 0.98),
    "static, smooth": (QuantizeConfig(smooth=0.5), 0.98),
    "dynamic": (DYNAMIC, 0.98),
    "dynamic, int4 weights": (DYNAMIC4, 0.93),
    "int8 weights": (weight_only(), 0.999),
    "int8 weights, asymmetric": (weight_only(symmetric=False), 0.999),
    "int4 weights": (weight_only(weights="int4", group_size=16), 0.93),
    "int4 weights, scale estimation": (weight_only(weights="int4", group_size=16, algorithm="scale-estimation"), 0.93),
    "nf4 weights": (weight_only(weights="nf4", group_size=16), 0.93),
    "fp16 weights": (weight_only(weights="fp16"), 0.9999),
}
NEEDS_INSTRUCTIONS = {"dynamic", "dynamic, int4 weights"}


def weight_types(artifact: Artifact) -> set[str]:
    """Element types of the matrices."""
    model = openvino.Core().read_model(artifact.main_file)
    return {
        operation.get_element_type().get_type_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "Constant" and int(np.prod(operation.get_output_shape(0))) >= 1000
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_near_eager_and_smaller(
    name: str, bert: tuple[Artifact, list[Any]], tiny: Callable[[str], Any], quantize_request: Make, load: Load
) -> None:
    (artifact, batches), (config, least) = bert, CONFIGS[name]
    request = quantize_request(artifact, config, calibration=batches if config.calibrates else None)
    if name in NEEDS_INSTRUCTIONS and not sums_widely(request.hardware.cpu):
        with pytest.raises(OptionError, match="no instructions"):
            manager().quantize(request)
        return
    written = manager().quantize(request)
    assert sorted(path.name for path in request.output.iterdir()) == sorted(written.files)
    assert written.precision == config.weights
    assert written.steps[-1].options["config"] == config.to_dict()
    assert size(written) < size(artifact)
    session = load(written)
    pairs = []  # judged together: a case of one token is a handful of numbers
    for case in tiny("bert features").cases:
        if case.name == EMPTY:  # NaN by this route, in float too: see the docs' table of routes
            continue
        got, expected = session.run(case.inputs), case.outputs
        one, other = (np.asarray(found["last_hidden_state"], dtype=np.float64) for found in (got, expected))
        if (valid := case.valid.get("sequence")) is not None:
            one, other = one[valid], other[valid]
        assert not np.array_equal(one, other)
        pairs.append((one.ravel(), other.ravel()))
    one, other = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    assert cosine(one, other) >= least
    session.close()


@pytest.mark.parametrize(
    ("config", "wanted"),
    [(STATIC, {"i8"}), (weight_only(), {"i8"}), (weight_only(weights="int4", group_size=16), {"i4", "i8"})],
)
def test_weights_are_stored_as_integers(
    config: QuantizeConfig, wanted: set[str], bert: tuple[Artifact, list[Any]], quantize_request: Make
) -> None:
    artifact, batches = bert
    written = manager().quantize(quantize_request(artifact, config, calibration=batches if config.calibrates else None))
    found = weight_types(written)
    assert found & wanted and "f32" not in found, found


def test_a_layer_that_is_excluded_stays_float(bert: tuple[Artifact, list[Any]], quantize_request: Make) -> None:
    artifact, _ = bert
    written = manager().quantize(quantize_request(artifact, weight_only(exclude=["encoder.layer.0.intermediate"])))
    model = openvino.Core().read_model(written.main_file)
    kinds: dict[str, set[str]] = {}
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant" and len(operation.get_output_shape(0)) == 2:
            for layer in ("encoder.layer.0.intermediate", "encoder.layer.0.output.dense"):
                if layer in operation.get_friendly_name():
                    kinds.setdefault(layer, set()).add(operation.get_element_type().get_type_name())
    assert "i8" not in kinds.get("encoder.layer.0.intermediate", set()), kinds
    larger = size(written)
    assert larger > size(manager().quantize(quantize_request(artifact, weight_only())))


def test_an_unknown_layer_is_an_error_that_names_some(bert: tuple[Artifact, list[Any]], quantize_request: Make) -> None:
    request = quantize_request(bert[0], weight_only(exclude=["classifier"]))
    with pytest.raises(OptionError, match=r"(?s)'classifier'.*encoder"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (QuantizeConfig(calibration="entropy"), "calibration"),
        (QuantizeConfig(form="qoperator"), "form"),
        (QuantizeConfig(weights="fp8"), "weights"),
        (weight_only(algorithm="hqq", weights="int4"), "algorithm"),
        (weight_only(weights="fp16", exclude=["encoder"]), "exclude"),
        (weight_only(weights="int4", group_size=7), "group_size"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    config: QuantizeConfig, field: str, bert: tuple[Artifact, list[Any]], quantize_request: Make
) -> None:
    artifact, batches = bert
    request = quantize_request(artifact, config, calibration=batches if config.calibrates else None)
    with pytest.raises(OptionError, match=f"'{field}'"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


@pytest.mark.parametrize("calibration", [None, [], [{"input_ids": np.ones((1, 4), np.int64)}]])
def test_calibration_must_be_there_and_fit(
    calibration: Any, bert: tuple[Artifact, list[Any]], quantize_request: Make
) -> None:
    with pytest.raises(OptionError, match="calibration"):
        manager().quantize(quantize_request(bert[0], STATIC, calibration=calibration))


def test_what_was_quantized_is_not_quantized_again(
    bert: tuple[Artifact, list[Any]], quantize_request: Make, tmp_path: Path
) -> None:
    once = manager().quantize(quantize_request(bert[0], weight_only()))
    output = tmp_path / "twice"
    output.mkdir()
    with pytest.raises(OptionError, match="'int8'"):
        manager().quantize(quantize_request(once, weight_only(), output=output))


def test_damaged_weights_are_refused_and_nothing_is_written(
    bert: tuple[Artifact, list[Any]], quantize_request: Make, tmp_path: Path
) -> None:
    artifact, _ = bert
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    weights = copy / artifact.files[1]
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 255
    weights.write_bytes(content)
    request = quantize_request(dataclasses.replace(artifact, path=copy), weight_only())
    with pytest.raises(SessionError):
        manager().quantize(request)
    assert not list(request.output.iterdir())


def test_batches_that_the_model_refuses_are_an_error(bert: tuple[Artifact, list[Any]], quantize_request: Make) -> None:
    artifact, batches = bert
    wrong = [{**batches[0], "attention_mask": np.ones((3, 5), np.int64)}]
    request = quantize_request(artifact, STATIC, calibration=wrong)
    with pytest.raises(OptionError, match="batch 4 in 'input_ids' and 3 in 'attention_mask'"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


def test_it_is_silent_and_leaves_nothing_behind(
    bert: tuple[Artifact, list[Any]],
    quantize_request: Make,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = logging.getLoggerClass()
    artifact, batches = bert
    manager().quantize(quantize_request(artifact, STATIC, calibration=batches))
    printed = capfd.readouterr()
    assert not printed.out and not printed.err
    assert not list(here.iterdir())
    assert logging.getLoggerClass() is before


def test_activations_share_a_scale_in_no_wider_groups_than_weights(
    bert: tuple[Artifact, list[Any]], quantize_request: Make, hardware: Machine
) -> None:
    if not sums_widely(hardware().cpu):
        pytest.skip("this processor has no instructions for dynamic quantization")
    eight, four = (manager().quantize(quantize_request(bert[0], config)) for config in (DYNAMIC, DYNAMIC4))
    assert eight.steps[-1].options["dynamic_group_size"] == 128
    constants = [op for op in openvino.Core().read_model(four.main_file).get_ops() if op.get_type_name() == "Constant"]
    groups = [op.get_output_shape(0)[-1] for op in constants if op.get_element_type().get_type_name() == "i4"]
    assert four.steps[-1].options["dynamic_group_size"] == min(groups) < 128


def test_only_processors_with_wide_sums_are_offered_dynamic(hardware: Machine) -> None:
    for features, wanted in ((frozenset({"avx2"}), False), (frozenset({"avx2", "avx512_vnni"}), True)):
        machine = hardware(architecture="x86_64", features=features)
        offer = support(machine).offers[0]
        assert offer.runs == cpu_schemes(machine.cpu)
        assert ("dynamic-int8" in offer.schemes) is wanted
        assert "static-int8" in offer.schemes and "weight-only-int4" in offer.runs
