"""`accelerate(quantize=…)` from data to a deployed artifact: the promise is kept, or the model is not quantized."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.classifier import CALIBRATION, DYNAMIC, HELD, Classifier
from typer.testing import CliRunner

from optimum_core import AcceleratedModel, load
from optimum_core.cli.app import app
from optimum_core.types import Event, RecipeResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """An easy promise."""

    fast: AcceleratedModel
    events: tuple[Event, ...]


@pytest.fixture(scope="module", params=["ort", "openvino"])
def kept(
    request: pytest.FixtureRequest,
    classifier: Classifier,
    quickest: Any,
    without_inc: Any,
) -> Kept:
    """Exports may come from the cache of earlier tests; what is made of them does not."""
    events: list[Event] = []
    with without_inc():
        fast = quickest(
            target=request.param,
            level="all" if request.param == "ort" else None,
            quantize="static-int8",
            calibration=CALIBRATION,
            evaluate=classifier.rows,
            max_drop="90%",
            progress=events.append,
        )
    return Kept(fast=fast, events=tuple(events))


def test_an_easy_promise_is_kept_by_a_quantized_model(kept: Kept, classifier: Classifier) -> None:
    report = kept.fast.report
    assert report is not None and report.promise is not None and report.chosen is not None
    assert kept.fast.manifest.quantized == "static-int8"
    assert (report.promise.metric, report.promise.baseline, report.promise.kept) == ("accuracy", 1.0, True)
    assert report.promise.limit == pytest.approx(0.9)
    assert report.promise.data == "48 labelled rows"
    (trial,) = [trial for trial in report.walk if trial.outcome == "kept"]
    # What the report says of it is what it does, by another road: the model that was returned, on the same rows.
    assert trial.value == pytest.approx(classifier.score(kept.fast), abs=0.03)
    assert trial.value is not None and trial.drop == pytest.approx(1.0 - trial.value)
    assert trial.config["scheme"] == "static"
    assert trial.size and trial.milliseconds and trial.speedup
    _agree(report.walk, trial)
    assert any("calibrated on 48 items" in note for note in report.notes)
    assert {"calibrate", "evaluate", "quantize", "verify"} <= {event.stage for event in kept.events}


def _agree(walk: Sequence[RecipeResult], chosen: RecipeResult) -> None:
    """The times and the words of what was slower say the same."""
    assert chosen.milliseconds and chosen.speedup
    for trial in walk:
        if trial.reason.endswith("times the time of the chosen"):
            assert trial.milliseconds and trial.speedup
            ratio = float(trial.reason.split()[0])
            assert trial.milliseconds / chosen.milliseconds == pytest.approx(ratio, abs=0.006)
            assert chosen.speedup / trial.speedup == pytest.approx(ratio, abs=0.006)


def test_data_is_read_and_eager_evaluated_before_anything_is_built(kept: Kept) -> None:
    stages = [event.stage for event in kept.events]
    exported = min(stages.index(stage) for stage in ("export", "cache") if stage in stages)
    assert stages.index("calibrate") < stages.index("evaluate") < exported < stages.index("quantize")


def test_it_is_rounded_and_still_near(kept: Kept, classifier: Classifier) -> None:
    inputs = classifier.tokenizer(HELD, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = classifier.model(**inputs).logits
    got = kept.fast(**inputs).logits
    assert not torch.allclose(got, want, rtol=1e-4, atol=1e-4)
    assert float((got - want).norm() / want.norm()) < 0.5


_ELSEWHERE = """
import json, sys
for name in ("torch", "transformers"):
    sys.modules[name] = None
import numpy as np
from optimum_core import load
model = load(sys.argv[1])
inputs = {name: np.array(value) for name, value in json.load(open(sys.argv[2])).items()}
print(json.dumps({"quantized": model.manifest.quantized, "logits": model(**inputs)["logits"].tolist()}))
"""


def test_saved_and_loaded_without_torch_it_gives_the_same(kept: Kept, classifier: Classifier, tmp_path: Path) -> None:
    kept.fast.save_pretrained(tmp_path / "out")
    inputs = dict(classifier.tokenizer(HELD[:5], padding=True, return_tensors="np"))
    (tmp_path / "inputs.json").write_text(json.dumps({name: value.tolist() for name, value in inputs.items()}))
    command = [sys.executable, "-c", _ELSEWHERE, str(tmp_path / "out"), str(tmp_path / "inputs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["quantized"] == "static-int8"
    np.testing.assert_allclose(answer["logits"], np.asarray(kept.fast(**inputs).logits), rtol=1e-3, atol=1e-3)
    assert load(tmp_path / "out").report == kept.fast.report


def test_the_report_holds_the_walk_in_every_form(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    report = kept.fast.report
    assert report is not None
    for text in (str(report), report.to_markdown()):
        assert "Promise: accuracy on 48 labelled rows, 1.0000 eager, may drop by 90 %; kept" in text
        assert "calibrated on 48 items" in text
        assert all(trial.name in text for trial in report.walk if trial.outcome != "skipped")
    tree = json.loads(report.to_json())
    assert [trial["outcome"] for trial in tree["walk"]] == [trial.outcome for trial in report.walk]
    assert tree["promise"]["kept"] is True
    assert tree["walk"][0]["config"]["scheme"] == "static"


# The cache.


def _again(classifier: Classifier, quickest: Any, **changes: Any) -> tuple[AcceleratedModel, set[str]]:
    events: list[Event] = []
    arguments = {"calibration": CALIBRATION, "evaluate": classifier.rows, "max_drop": "90%", **changes}
    fast = quickest(target="ort", level="all", quantize=DYNAMIC, progress=events.append, **arguments)
    return fast, {event.stage for event in events}


def test_the_same_again_comes_from_the_cache_and_other_data_is_done_anew(classifier: Classifier, quickest: Any) -> None:
    first, stages = _again(classifier, quickest)
    assert "quantize" in stages
    second, stages = _again(classifier, quickest)
    assert stages == {"read", "cache"}
    assert second.manifest.quantized == first.manifest.quantized == "dynamic-int8"
    assert second.report is not None and second.report.from_cache
    _, stages = _again(classifier, quickest, calibration=CALIBRATION[:-1])
    assert "calibrate" in stages
    flipped = [*classifier.rows[:-1], (classifier.rows[-1][0], (classifier.rows[-1][1] + 1) % 5)]
    other, stages = _again(classifier, quickest, evaluate=flipped)
    assert "evaluate" in stages
    assert other.report is not None and other.report.promise is not None
    assert other.report.promise.baseline == pytest.approx(47 / 48)


def test_a_function_is_asked_again(classifier: Classifier, quickest: Any) -> None:
    says = [1.0]
    asked: list[str | None] = []

    def metric(model: AcceleratedModel) -> float:
        asked.append(model.manifest.quantized)
        return says[0]

    first, _ = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert first.manifest.quantized == "dynamic-int8"
    assert asked[0] is None  # eager
    assert "dynamic-int8" in asked
    asked.clear()
    _, stages = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert (asked, "quantize" in stages) == (["dynamic-int8"], False)
    says[0] = 0.5  # the promise was 0.9 at least: what was kept is thrown away, and eager is asked anew
    asked.clear()
    _, stages = _again(classifier, quickest, evaluate=metric, max_drop=0.1)
    assert asked[:2] == ["dynamic-int8", None]
    assert "describe" in stages


def test_a_function_that_gives_another_value_is_asked_of_eager_too(classifier: Classifier, quickest: Any) -> None:
    """The eager model's value then says nothing of the one now."""

    def lenient(model: AcceleratedModel) -> float:
        return 0.5 + 0.0 * float(np.abs(model(input_ids=np.array([[2, 5, 3]])).logits).max())

    def strict(model: AcceleratedModel) -> float:
        model(input_ids=np.array([[2, 5, 3]]))
        return 1.0 if model.manifest.quantized is None else 0.6

    first, _ = _again(classifier, quickest, evaluate=lenient, max_drop=0.1)
    assert first.manifest.quantized == "dynamic-int8"
    second, _ = _again(classifier, quickest, evaluate=strict, max_drop=0.1)
    assert second.report is not None and second.report.promise is not None
    assert (second.manifest.quantized, second.report.promise.baseline) == (None, 1.0)
    third, _ = _again(classifier, quickest, evaluate=lenient, max_drop=0.1)  # what was refused is asked as well
    assert third.manifest.quantized == "dynamic-int8"


def test_the_command(classifier: Classifier, tmp_path: Path) -> None:
    """In this process, which has imported the libraries; `core/tests/test_cli.py` starts one."""
    (tmp_path / "recipe.yaml").write_text("scheme: dynamic\nmetric: f1\nmax_drop: 1%\n", encoding="utf-8")
    (tmp_path / "typical.txt").write_text("\n".join(CALIBRATION), encoding="utf-8")
    rows = [json.dumps({"text": text, "label": label}) for text, label in classifier.rows]
    (tmp_path / "labelled.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = ["accelerate", str(classifier.directory), str(tmp_path / "out")]
    command += ["--target", "ort", "--quantize", str(tmp_path / "recipe.yaml"), "--max-drop", "95%", "--shapes", "1x8"]
    command += ["--precision", "fp32", "--level", "all", "--budget", "1"]
    command += ["--calibration", str(tmp_path / "typical.txt"), "--evaluate", str(tmp_path / "labelled.jsonl")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    fast = load(tmp_path / "out")
    assert fast.manifest.quantized == "dynamic-int8"
    assert fast.report is not None and fast.report.promise is not None
    # What was typed goes before what the recipe says.
    assert (fast.report.promise.metric, fast.report.promise.max_drop) == ("f1", "95 %")
    assert "dynamic-int8" in done.stdout and "kept" in done.stdout


def test_throughput_counts_calls_side_by_side_of_quantized_models(
    classifier: Classifier, quickest: Any, without_inc: Any
) -> None:
    """Both sessions of the recipe that is kept are raced: of one call at a time, and of one for each core."""
    with without_inc():
        fast = quickest(
            target="openvino", quantize="weight-only-int8", evaluate=classifier.rows, max_drop="90%",
            objective="throughput",
        )  # fmt: skip
    assert fast.manifest.quantized == "weight-only-int8" and fast.report is not None
    assert any("streams" in result.name for result in fast.report.walk)
    assert fast.manifest.streams in (1, max(2, fast.manifest.hardware.cpu.usable_cores))
    assert classifier.score(fast) > 0.9
