"""Recipes, data and files that cannot be quantized are refused by name, and nothing is written."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.backend import manager
from optimum_core.errors import ExportError, OptionError, SessionError, UnavailableError
from optimum_core.plan import Way
from optimum_core.search.quantized.recipes import variants
from optimum_core.search.spec import CandidateSpec
from optimum_core.testing.quantizing import weight_only
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_inc import programs, quantize

pytest.importorskip("neural_compressor", reason="the extra `quantize` is not installed")

Make = Callable[..., QuantizeRequest]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (QuantizeConfig(form="qoperator"), "form"),
        (QuantizeConfig(weights="uint8"), "weights"),
        (QuantizeConfig(weights="fp8"), "weights"),
        (QuantizeConfig(smooth=0.5), "smooth"),
        (QuantizeConfig(per_channel=False), "per_channel"),
        (QuantizeConfig(symmetric=False), "symmetric"),
        (QuantizeConfig(activations="fp8"), "activations"),
        (QuantizeConfig(scheme="dynamic", activations="int8"), "activations"),
        (weight_only(weights="nf4"), "weights"),
        (weight_only(weights="int4", algorithm="scale-estimation"), "algorithm"),
        (weight_only(algorithm="gptq"), "algorithm"),
        (weight_only(weights="int4", algorithm="hqq", symmetric=True), "symmetric"),
        (weight_only(weights="int4", group_size=48), "group_size"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    config: QuantizeConfig, field: str, exported: Artifact, quantize_request: Make
) -> None:
    request = quantize_request(exported, config)
    with pytest.raises(OptionError, match=f"'{field}'"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


def test_of_a_walk_one_recipe_is_refused_by_name(
    exported: Artifact, quantize_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: Any) -> None:
        raise OptionError("here", "it was taken", "")

    # Every recipe is refused or taken before the program is changed: it is read once.
    monkeypatch.setattr(programs, "load", functools.cache(programs.load))
    monkeypatch.setattr(quantize, "quantized_graph", taken)
    way = Way(backend="inc", device="cpu", precision="fp32", format="torch-inductor", exporter="inc", exported="x")
    answers = {}
    for recipe in variants(CandidateSpec(way=way, config=weight_only(weights="int4")), calibrated=True, promised=True):
        assert recipe.spec.config is not None
        with pytest.raises(OptionError) as caught:
            manager().quantize(quantize_request(exported, recipe.spec.config))
        answers[recipe.words] = str(caught.value)
    assert {"awq", "gptq", "groups of 32"} < set(answers)
    refused = {words: why for words, why in answers.items() if "it was taken" not in why}
    assert list(refused) == ["scale-estimation"]
    assert "'algorithm' cannot be 'scale-estimation' here" in refused["scale-estimation"]
    assert "rtn, awq, gptq, hqq" in refused["scale-estimation"]


def test_a_group_that_does_not_divide_a_layer_is_an_error(exported: Artifact, quantize_request: Make) -> None:
    with pytest.raises(OptionError, match=r"'group_size' cannot be 128: 'bert\..*' has 64 channels"):
        manager().quantize(quantize_request(exported, weight_only(weights="int4", group_size=128)))


def test_an_unknown_layer_is_an_error_that_names_some(exported: Artifact, quantize_request: Make) -> None:
    request = quantize_request(exported, QuantizeConfig(exclude=("head",)))
    with pytest.raises(OptionError, match=r"(?s)'head'.*bert"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


def test_everything_excluded_leaves_nothing_to_quantize(exported: Artifact, quantize_request: Make) -> None:
    with pytest.raises(OptionError, match="no product"):
        manager().quantize(quantize_request(exported, QuantizeConfig(exclude=("bert", "classifier"))))


@pytest.mark.parametrize("calibration", [None, [], [{"input_ids": np.ones((1, 4), np.int64)}]])
def test_calibration_must_be_there_and_fit(calibration: Any, exported: Artifact, quantize_request: Make) -> None:
    with pytest.raises(OptionError, match="calibration"):
        manager().quantize(quantize_request(exported, QuantizeConfig(), calibration=calibration))


def test_batches_that_the_model_refuses_are_an_error(exported: Artifact, bert: Any, quantize_request: Make) -> None:
    wrong = [{**bert.batches(1)[0], "attention_mask": np.ones((3, 5), np.int64)}]
    request = quantize_request(exported, QuantizeConfig(), calibration=wrong)
    with pytest.raises(ExportError, match="static-int8 failed"):
        manager().quantize(request)
    assert not list(request.output.iterdir())


def test_formats_and_options_are_checked(
    exported: Artifact, package: Artifact, quantize_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="does not give 'coreml'"):
        manager().quantize(quantize_request(exported, QuantizeConfig(), format="coreml"))
    with pytest.raises(OptionError, match="ONNX for 'static' alone"):
        manager().quantize(quantize_request(exported, QuantizeConfig(scheme="dynamic"), format="onnx"))
    with pytest.raises(OptionError, match="does not quantize 'torch-inductor'"):
        manager().quantize(quantize_request(package, QuantizeConfig()))
    with pytest.raises(OptionError, match="unknown option 'fast'"):
        manager().quantize(quantize_request(exported, QuantizeConfig(), options={"fast": True}))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnavailableError, match="compiler"):
        manager().quantize(quantize_request(exported, QuantizeConfig()))


def test_a_damaged_program_is_refused(exported: Artifact, quantize_request: Make, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported.path, copy)
    content = bytearray((copy / exported.files[0]).read_bytes())
    content[len(content) // 2] ^= 255
    (copy / exported.files[0]).write_bytes(content)
    request = quantize_request(dataclasses.replace(exported, path=copy), QuantizeConfig())
    with pytest.raises(SessionError, match="not whole"):
        manager().quantize(request)
    assert not list(request.output.iterdir())
