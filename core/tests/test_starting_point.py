"""A quantized search starts from the fastest unquantized model that keeps the promise as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from optimum_core.errors import EvaluationError, OptionError
from optimum_core.types import CandidateResult, Report
from stated_backend import DYNAMIC, Deep, Form, Stated, accelerated, eager, labelled, made, report_of, rows

#: Of 20 rows of data.
LOST = 16

Start = Callable[..., Report]


def _runner(*, bf16: float = 4.0, fp32: float = 6.0, loses: Sequence[str] = ("bf16",), **fields: Any) -> Stated:
    """Return a backend with both precisions, whose models in some lose decisions that all quantized ones lose too.

    Args:
        bf16: milliseconds in bf16; `fp32`: in fp32.
    """
    takes = {"bf16": bf16, "fp32": fp32}

    def lost(form: Form) -> int:
        return LOST if form.is_quantized or form.precision in loses else 0

    fields = {"takes": lambda form: takes[form.precision], "loses": lost, **fields}
    return Stated(name="runner", precisions=("fp32", "bf16"), **fields)


def _other(milliseconds: float) -> Stated:
    return Stated(name="other", takes=lambda form: milliseconds, loses=lambda form: LOST * form.is_quantized)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """The report of a search in which every precision competes, and none that is quantized keeps the promise."""

    def run(*backends: Stated, **settings: Any) -> Report:
        fast = accelerated(
            tmp_path,
            backends,
            **{"quantize": DYNAMIC, "precision": "auto", "evaluate": labelled(), **settings},
        )
        assert sum(backend.open for backend in backends) == 1, "only the session of the result stays open"
        fast.close()
        report = report_of(fast)
        assert report.chosen is not None and not report.chosen.options.get("quantized")
        return report

    return run


def _of(report: Report, backend: str, precision: str) -> CandidateResult:
    return next(item for item in report.candidates if (item.backend, item.precision) == (backend, precision))


def test_what_breaks_the_promise_in_fewer_bits_gives_way_to_full_precision(start: Start) -> None:
    report = start(_runner(), _other(9.0), eager(20.0))
    chosen = report.candidates[0]
    assert (chosen.backend, chosen.precision, chosen.outcome) == ("runner", "fp32", "chosen")
    assert "in bf16 the promise is broken" in chosen.reason and "none of" in chosen.reason
    loser = _of(report, "runner", "bf16")
    assert (loser.outcome, loser.reason) == ("wrong", "it breaks the promise, by bf16 alone")
    assert _of(report, "other", "fp32").reason == "1.50 times the time of the chosen, in a short run"
    assert len(report.candidates) == 4


def test_a_model_that_is_there_for_comparison_only_is_no_start(start: Start) -> None:
    report = start(_runner(), eager(3.0), target="runner")
    assert (report.candidates[0].backend, report.candidates[0].precision) == ("runner", "fp32")
    assert _of(report, "eager", "fp32").reason == "0.50 times the time of the chosen; for comparison only"


def test_what_keeps_it_stays(start: Start) -> None:
    report = start(_runner(loses=()), _other(9.0), eager(20.0))
    assert (report.candidates[0].backend, report.candidates[0].precision) == ("runner", "bf16")
    assert "the promise is broken" not in report.candidates[0].reason


def _hopeless(report: Report) -> bool:
    return "even unquantized it has accuracy 0.2" in report.candidates[0].reason


def test_in_full_precision_already_it_stays_though_the_promise_is_broken(start: Start) -> None:
    report = start(_runner(bf16=9.0, loses=("bf16", "fp32")), eager(20.0))
    assert report.candidates[0].precision == "fp32" and _hopeless(report)
    assert not report.walk, "what kept the promise after rounding would keep it by chance"


def test_where_nothing_is_promised_it_stays(start: Start) -> None:
    report = start(_runner(), eager(20.0), evaluate=None, calibration=rows())
    assert report.candidates[0].precision == "bf16" and report.promise is None


def test_a_wrong_model_is_no_start(start: Start) -> None:
    def wrong(form: Form, values: Any) -> Any:
        return values * (1.5 if form.precision == "fp32" else 1.0)

    report = start(_runner(breaks=wrong), eager(20.0), target="runner")
    assert _of(report, "runner", "fp32").outcome == "wrong"
    assert report.candidates[0].precision == "bf16" and _hopeless(report)


def test_what_is_slower_than_eager_at_a_shape_is_no_start(start: Start) -> None:
    def takes(form: Form) -> float:
        return {"bf16": 4.0, "fp32": 2.0 if form.rows == 1 else 14.0}[form.precision]

    report = start(_runner(takes=takes), eager(10.0), shapes=[{"batch": 1}, {"batch": 4}])
    assert (report.candidates[0].backend, report.candidates[0].precision) == ("eager", "fp32")
    assert "in bf16 the promise is broken" in report.candidates[0].reason


def test_a_metric_that_fails_leaves_no_session_open(tmp_path: Path) -> None:
    calls: list[str] = []

    def evaluate(model: Any) -> float:
        calls.append(model.manifest.precision)
        return 0.9 / (len(calls) < 3)

    every = [_runner(), eager(20.0)]
    with pytest.raises(EvaluationError, match="ZeroDivisionError"):
        accelerated(tmp_path, every, quantize=DYNAMIC, precision="auto", evaluate=evaluate)
    assert calls == ["fp32", "fp32", "bf16"], "the eager model, twice, then the fastest one"
    assert not any(backend.open for backend in every)


class Hidden(Deep):
    """Gives numbers that rank nothing."""

    output = "hidden"


def test_a_drop_that_nothing_would_go_by_is_refused(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"quantize": DYNAMIC, "max_drop": 0.01}
    with pytest.raises(OptionError, match="there are none"):
        accelerated(tmp_path, [_runner(), eager()], **asked)
    with pytest.raises(OptionError, match="no output of this model ranks choices"):
        accelerated(tmp_path, [_runner(), eager()], made(Hidden), calibration=rows(), **asked)
