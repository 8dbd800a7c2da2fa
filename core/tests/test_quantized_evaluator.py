"""A candidate's verdict: form first, then the metric; one that fails on real data is out, and the walk goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import EvaluationError, OptimumError, SessionError
from optimum_core.types import RecipeResult
from stated_backend import DYNAMIC, STATIC, Deep, Form, Stated, accelerated, eager, labelled, made, report_of, rows

Judge = Callable[..., list[RecipeResult]]


def _says(number: float | OptimumError) -> Callable[[Any], float]:
    """Return a metric that is 0.9 for what is not quantized, and this number, or error, for the default recipe."""
    said: list[float] = []

    def accuracy(model: Any) -> float:
        if model.manifest.quantized is None:
            return 0.9
        said.append(0.0)
        if isinstance(number, OptimumError) and len(said) == 1:
            raise number
        return 0.9 if isinstance(number, OptimumError) else number

    return accuracy


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """The trials of a backend whose quantized models are twice as fast as the eager one."""

    def run(**settings: Any) -> list[RecipeResult]:
        stated = {name: settings.pop(name) for name in ("loses", "breaks") if name in settings}
        quick = Stated(name="quick", takes=lambda form: 5.0 if form.is_quantized else 20.0, **stated)
        with accelerated(tmp_path, [quick, eager()], **{"quantize": DYNAMIC, **settings}) as fast:
            return list(report_of(fast).walk)

    return run


@pytest.mark.parametrize(("says", "outcome"), [(0.9, "kept"), (0.85, "kept"), (0.95, "kept"), (0.84, "broken")])
def test_the_metric_decides(judge: Judge, says: float, outcome: str) -> None:
    trial = judge(evaluate=_says(says), max_drop=0.05)[0]
    assert (trial.outcome, trial.value) == (outcome, says)
    assert "a drop of 0.05 is allowed" in trial.reason


def _no_numbers(form: Form, values: Any) -> Any:
    return values * np.float32(np.nan) if form.is_quantized else values


def test_form_goes_before_the_metric(judge: Judge) -> None:
    trial = judge(evaluate=_says(0.9), breaks=_no_numbers)[0]
    assert (trial.outcome, trial.value) == ("broken", None)
    assert judge(evaluate=_says(0.9), breaks=_no_numbers, verify=False)[0].outcome == "kept"


@pytest.mark.parametrize("error", [EvaluationError, SessionError])
def test_one_that_fails_on_the_data_is_out_and_the_walk_goes_on(judge: Judge, error: type[OptimumError]) -> None:
    first, second = judge(evaluate=_says(error("backend 'quick'", "out of memory", "none")))
    assert (first.outcome, first.value, second.outcome) == ("failed", None, "kept")
    assert "out of memory" in first.reason


#: Of 20 rows, calibration does not see the last five: one of these comes out otherwise, or two.
ONE, TWO = 16, 17


def test_without_a_metric_nearness_decides_and_a_stated_drop_is_of_agreement(judge: Judge) -> None:
    assert judge(calibration=rows())[0].outcome == "kept"
    one = {"calibration": rows(), "loses": lambda form: ONE * form.is_quantized}
    trial = judge(**one)[0]
    assert (trial.outcome, trial.value) == ("broken", 0.8)
    assert "80.0% < 95.0%" in trial.reason
    assert "80.0% < 81.0%" in judge(**one, max_drop=0.19)[0].reason
    assert judge(**one, max_drop="20%")[0].outcome == "kept"
    two = {"calibration": rows(), "loses": lambda form: TWO * form.is_quantized}
    assert "60.0% < 80.0%" in judge(**two, max_drop="20%")[0].reason


def _alone(form: Form) -> int:
    """Return the rows that come out otherwise: some where each is a call of its own."""
    return 5 if form.is_quantized and form.rows == 1 else 0


@pytest.mark.parametrize(("scheme", "value"), [(DYNAMIC, 0.75), (STATIC, 1.0)])
def test_what_a_call_decides_is_asked_item_by_item_too(judge: Judge, scheme: str, value: float) -> None:
    """Ranges that are found in every call depend on what else is in it."""
    data = {"evaluate": labelled(), "calibration": rows(first=100)}
    trial = judge(quantize=scheme, loses=_alone, **data)[0]
    assert (trial.outcome, trial.value) == ("broken" if value < 1 else "kept", value)


class OneByOne(Deep):
    """Takes one row at a time."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) != 1:
            raise ValueError("one row at a time")
        return super().forward(x)


def test_items_are_asked_once_where_every_call_is_of_one(tmp_path: Path) -> None:
    quick = Stated(name="quick", takes=lambda form: 5.0 if form.is_quantized else 20.0)
    stated = {"quantize": DYNAMIC, "sample_inputs": {"x": torch.zeros(1, 3)}, "shapes": None}
    with accelerated(tmp_path, [quick, eager()], made(OneByOne), evaluate=labelled(batch=1), **stated) as fast:
        assert fast.report is not None and fast.report.promise is not None and fast.report.promise.kept
    (session,) = (item for item in quick.sessions if item.form.is_quantized and item.asked)
    assert set(Counter(session.asked).values()) == {2}, "compared with eager once, and counted by the metric once"
