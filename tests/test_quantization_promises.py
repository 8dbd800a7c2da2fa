"""`accelerate(quantize=…)` under promises: the safest recipe that keeps one is found, or the model is not quantized."""

from __future__ import annotations

from typing import Any

from tests.classifier import CALIBRATION, DYNAMIC, Classifier

from optimum_core import AcceleratedModel
from optimum_core.types import QuantizeConfig


def test_an_impossible_promise_gives_the_best_unquantized_model(classifier: Classifier, quickest: Any) -> None:
    def metric(model: AcceleratedModel) -> float:
        return 0.0 if model.manifest.quantized else 1.0

    fast = quickest(target="ort", level="all", quantize=DYNAMIC, evaluate=metric, max_drop=0)
    report = fast.report
    assert fast.manifest.quantized is None
    assert report is not None and report.promise is not None and report.chosen is not None
    assert not report.promise.kept
    assert {trial.outcome for trial in report.walk} == {"broken"}
    assert {trial.drop for trial in report.walk} == {1.0}
    assert len(report.walk) > 1  # safer recipes were tried
    assert "none of" in report.chosen.reason and "keeps the promise" in report.chosen.reason
    assert "not kept by any quantized model" in report.to_markdown()
    assert classifier.score(fast) == 1.0


def test_layers_are_left_in_float_until_the_promise_is_kept(quickest: Any) -> None:
    # Eager, twice, the best unquantized model, and two recipes that break it.
    answers = iter([1.0, 1.0, 1.0, 0.0, 0.0, *[1.0] * 9])

    def metric(model: AcceleratedModel) -> float:
        return next(answers) if model.manifest else 0.0

    fast = quickest(target="ort", level="all", quantize=DYNAMIC, evaluate=metric, max_drop=0)
    assert fast.report is not None
    judged = [trial for trial in fast.report.walk if trial.value is not None]
    outcomes = [trial.outcome for trial in judged]
    assert outcomes[:2] == ["broken", "broken"]
    assert sorted(set(outcomes[2:])) in (["kept"], ["kept", "slow"])  # it may be slower than its successors should be
    assert outcomes.count("kept") == 1
    left = [trial.name for trial in judged]
    assert "layers in float" not in left[0]
    assert "5% of the layers in float" in left[1]
    assert "15% of the layers in float" in left[2]


def test_a_backend_that_controls_accuracy_goes_by_the_metric(quickest: Any, without_inc: Any) -> None:
    # Eager, twice, the best unquantized model, the backend's before and after rounding, and with one operation back.
    answers = iter([1.0, 1.0, 1.0, 1.0, 0.0, *[1.0] * 9])
    seen: list[str | None] = []

    def metric(model: AcceleratedModel) -> float:
        seen.append(model.manifest.quantized)
        return next(answers)

    with without_inc():
        fast = quickest(
            target="openvino",
            quantize=QuantizeConfig(accuracy_control=True),
            calibration=CALIBRATION,
            evaluate=metric,
            max_drop=0,
        )
    assert fast.report is not None and fast.report.promise is not None and fast.report.promise.kept
    assert fast.manifest.quantized == "static-int8"
    assert seen == [None, None, None, *["static-int8"] * 4]  # the last is the judgement on what came out
    (step,) = [step for step in fast.manifest.steps if step.hook == "quantize"]
    assert step.options["config"]["accuracy_control"] is True
    assert "in_float" in step.options  # empty where what goes first rounds an input, which is no operation
    (kept,) = [trial for trial in fast.report.walk if trial.outcome == "kept"]
    assert kept.config["accuracy_control"] is True


def test_without_evaluate_nearness_to_eager_decides(quickest: Any) -> None:
    fast = quickest(target="ort", level="all", quantize="weight-only-int8", calibration=CALIBRATION)
    assert fast.manifest.quantized == "weight-only-int8"
    report = fast.report
    assert report is not None and report.promise is None
    assert any("compared with eager on 12 items that calibration did not see" in note for note in report.notes)
    fidelity = fast.manifest.fidelity
    assert fidelity is not None and fidelity.passed and fidelity.formed > 0
    assert {result.case for result in fidelity.results} == {"12 items of unseen data"}


def test_a_budget_that_is_over_at_once_still_has_one_recipe_judged(classifier: Classifier, quickest: Any) -> None:
    fast = quickest(
        target="ort",
        level="all",
        quantize="static-int8",
        calibration=CALIBRATION,
        evaluate=classifier.rows,
        max_drop="90%",
        budget=1e-3,
    )
    judged = [trial for trial in fast.report.walk if trial.value is not None]
    assert [trial.outcome for trial in judged] == ["kept"]
    assert any("is over" in trial.reason for trial in fast.report.walk)
    assert fast.report.promise.kept
