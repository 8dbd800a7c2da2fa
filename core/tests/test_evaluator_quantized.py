"""A candidate's verdict: form first, then the metric; one that fails on real data is out, and the walk goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import EvaluationError, OptimumError, SessionError
from optimum_core.models.batches import Batches
from optimum_core.plan import Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.quantized import evaluator as evaluating
from optimum_core.search.quantized.evaluator import Evaluator, Verdict
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Promise, QuantizeConfig, TensorSpec
from optimum_core.types.quantization import parse_drop
from optimum_core.verify import ReferenceCase
from optimum_core.verify.promise import Labelled

LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))
VALUES = np.array([[1.0, 2.0], [3.0, 1.0], [1.0, 4.0], [5.0, 1.0]], dtype=np.float32)
DRAWN = (ReferenceCase(name="drawn", inputs={"x": VALUES}, outputs={"logits": VALUES}, varied=frozenset()),)
PROMISE = Promise(metric="accuracy", baseline=0.9, max_drop="0.05", limit=0.05, data="rows")


class Metric:
    """Says a number, or fails."""

    name, data = "accuracy", "rows"

    def __init__(self, says: float | OptimumError) -> None:
        self.says = says

    def value(self, judged: Any) -> float:
        if isinstance(self.says, OptimumError):
            raise self.says
        return self.says


def _judge(run: Any, *, says: Any = None, drop: Any = None, verify: bool = True) -> Verdict:
    metric = None if says is None else Metric(says)
    job: Any = SimpleNamespace(
        promise=PROMISE if metric else None,
        drop=parse_drop(drop) if drop is not None else None,
        data=SimpleNamespace(metric=metric, unseen=DRAWN),
        search=SimpleNamespace(verify=verify, emit=lambda event: None),
        present=lambda candidate: candidate,
    )
    way = Way(backend="acme", device="cpu", precision="fp32", format="acme", exporter="acme", exported="acme")
    signature: Any = SimpleNamespace(outputs=(LOGITS,))
    candidate = Candidate(spec=CandidateSpec(way=way, config=QuantizeConfig()), signature=signature)
    candidate.run = run
    return Evaluator(context=job, unquantized=candidate, drawn=DRAWN).judge(candidate)


def _same(inputs: Any) -> Any:
    return {"logits": inputs["x"]}


def _one_wrong(inputs: Any) -> Any:
    values = inputs["x"].copy()
    values[0, 0] = 2.1
    return {"logits": values}


@pytest.mark.parametrize(("says", "outcome"), [(0.9, "kept"), (0.85, "kept"), (0.95, "kept"), (0.84, "broken")])
def test_the_metric_decides(says: float, outcome: str) -> None:
    verdict = _judge(_one_wrong, says=says)
    assert (verdict.outcome, verdict.value) == (outcome, says)
    assert "a drop of 0.05 is allowed" in verdict.reason


def test_form_goes_before_the_metric() -> None:
    verdict = _judge(lambda inputs: {"logits": inputs["x"] * np.nan}, says=0.9)
    assert (verdict.outcome, verdict.value) == ("broken", None)
    assert _judge(lambda inputs: {"logits": inputs["x"] * np.nan}, says=0.9, verify=False).outcome == "kept"


@pytest.mark.parametrize("error", [EvaluationError, SessionError])
def test_one_that_fails_on_the_data_is_out_and_the_walk_goes_on(error: type[OptimumError]) -> None:
    verdict = _judge(_same, says=error("backend 'acme'", "out of memory", "none"))
    assert (verdict.outcome, verdict.value) == ("failed", None)
    assert "out of memory" in verdict.reason


def test_without_a_metric_nearness_decides_and_a_stated_drop_is_of_agreement() -> None:
    assert _judge(_same).outcome == "kept"
    verdict = _judge(_one_wrong)
    assert (verdict.outcome, verdict.value) == ("broken", 0.75)
    assert "75.0% < 95.0%" in verdict.reason
    assert "75.0% < 76.0%" in _judge(_one_wrong, drop=0.24).reason
    assert "arg-max" not in _judge(_one_wrong, drop="25%").reason


@pytest.mark.parametrize(
    ("scheme", "axis", "values"), [("dynamic", "batch", 2), ("static", "batch", 1), ("dynamic", 1, 1)]
)
def test_what_a_call_decides_is_asked_item_by_item_too(scheme: str, axis: Any, values: int, tmp_path: Path) -> None:
    labelled = Labelled(metric="accuracy", batches=Batches(directory=tmp_path, sizes=()), output="logits", label_ids={})
    way = Way(backend="acme", device="cpu", precision="fp32", format="acme", exporter="acme", exported="acme")
    signature: Any = SimpleNamespace(inputs=(TensorSpec(name="x", dtype="float32", shape=(axis, 2)),))
    candidate = Candidate(spec=CandidateSpec(way=way, config=QuantizeConfig(scheme=scheme)), signature=signature)
    asked = evaluating._asked(labelled, candidate)
    assert [getattr(one, "alone", None) for one in asked] == [False, True][:values]
