"""The order of a quantized search: expected times lead it, measured ones decide, and the report agrees with both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_core.types import QuantizeConfig, RecipeResult, Report
from stated_backend import DYNAMIC, Form, Stated, accelerated, eager, judged, labelled, report_of, rows

#: A static recipe that leaves nothing to vary but the layers and accuracy control.
STATIC = QuantizeConfig(calibration="minmax", smooth=0.0)

Found = tuple[Report, list[Stated]]
Search = Callable[..., Found]


def _backend(
    name: str, *, takes: float, left: float | None = None, needs: float = 0, controls: bool = False, plain: float = 20.0
) -> Stated:
    """Return a backend whose model takes `takes` ms quantized, and keeps every decision if `needs` layers are left.

    Args:
        left: milliseconds with layers left in float, if not `takes`.
        plain: milliseconds unquantized.
    """

    def time(form: Form) -> float:
        if form.config is None:
            return plain
        return takes if left is None or not form.left else left

    return Stated(
        name=name, takes=time, loses=lambda form: 5 if form.is_quantized and form.left < needs else 0, controls=controls
    )


NEVER = float("inf")


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """The report of a search in which the eager model takes 10 ms, and the backends, whose sessions are counted."""

    def run(*backends: Stated, eager_ms: float = 10.0, **settings: Any) -> Found:
        every = [*backends, eager(eager_ms)]
        fast = accelerated(tmp_path, every, **{"quantize": DYNAMIC, "evaluate": labelled(), **settings})
        assert sum(backend.open for backend in every) == 1, "only the session of the result stays open"
        fast.close()
        return report_of(fast), every

    return run


def _told(report: Report, outcome: str) -> list[RecipeResult]:
    return [trial for trial in report.walk if trial.outcome == outcome]


def _chosen(report: Report) -> tuple[str, int]:
    """Return the backend of the winner, and the number of layers that its configuration leaves in float."""
    assert report.chosen is not None
    return report.chosen.backend, len(report.chosen.options.get("quantized", {}).get("exclude", ()))


def test_one_that_was_timed_ends_the_walk(search: Search) -> None:
    report, _ = search(_backend("quick", takes=5), _backend("next", takes=6))
    assert (_chosen(report), judged(report)) == (("quick", 0), ["quick 0"])
    assert [trial.reason for trial in _told(report, "slow")] == ["1.20 times the time of the chosen"]
    assert [trial.milliseconds for trial in report.walk] == pytest.approx([5.0, 6.0])
    assert [trial.speedup for trial in report.walk] == pytest.approx([2.0, 10 / 6])


def test_one_that_is_slower_than_expected_is_held_against_the_next(search: Search) -> None:
    report, (quick, *_) = search(_backend("quick", takes=5, needs=1, left=9), _backend("next", takes=7))
    assert _chosen(report) == ("next", 0)
    assert judged(report)[:2] == ["quick 0", "quick 1"] and judged(report)[-1] == "next 0"
    (slower,) = (trial for trial in report.walk if len(trial.config.get("exclude", ())) == 1)
    assert (slower.outcome, slower.reason) == ("slow", "1.29 times the time of the chosen")
    assert slower.milliseconds == pytest.approx(9.0)
    assert len(_told(report, "kept")) == 1
    assert len(_told(report, "slow")) == 3 and quick.most_open == 2, "the best so far and the one under trial"


def test_one_that_is_as_quick_as_expected_ends_the_walk(search: Search) -> None:
    report, _ = search(_backend("quick", takes=5, needs=1, left=5.2), _backend("next", takes=6))
    assert (_chosen(report), judged(report)) == (("quick", 1), ["quick 0", "quick 1"])
    assert [trial.reason for trial in _told(report, "slow")] == ["1.15 times the time of the chosen"]


def test_when_none_keeps_it_all_are_judged(search: Search) -> None:
    report, _ = search(_backend("quick", takes=5, needs=NEVER), _backend("next", takes=6, needs=NEVER))
    assert _chosen(report) == ("eager", 0)
    assert len(judged(report)) == len(report.walk) == len(_told(report, "broken")) == 10
    assert report.promise is not None and not report.promise.kept
    assert report.chosen is not None and "none of 10 recipes keeps the promise" in report.chosen.reason
    assert "the nearest drops by 0.25" in report.chosen.reason


def test_a_backend_controls_accuracy_when_nothing_else_keeps_it(search: Search) -> None:
    report, (quick, _) = search(
        _backend("quick", takes=5, needs=7, left=7, controls=True), quantize=STATIC, calibration=rows(first=100)
    )
    (kept,) = _told(report, "kept")
    assert kept is report.walk[-1] and kept.config["accuracy_control"] and "exclude" not in kept.config
    assert judged(report)[-2:] == ["quick 5", "quick 0"], "after half of the layers"
    assert kept.milliseconds == pytest.approx(7.0), "what was only expected is timed"
    assert max(session.form.left for session in quick.sessions) == 7, "until the promise was kept"


def test_control_that_finds_nothing_is_a_promise_broken(search: Search) -> None:
    report, _ = search(_backend("quick", takes=5, needs=NEVER), quantize=STATIC, calibration=rows(first=100))
    assert _chosen(report) == ("eager", 0)
    (last,) = [trial for trial in report.walk if trial.config.get("accuracy_control")]
    assert (last.outcome, last.reason) == ("broken", "it took everything back")
    assert last is report.walk[-1]


def test_a_quantized_model_that_is_slower_is_not_chosen_unasked(search: Search) -> None:
    slower = _backend("quick", takes=10.2, plain=10.0)
    report, _ = search(slower, quantize="int8", eager_ms=20.0)
    assert report.chosen is not None and report.promise is not None
    assert (report.chosen.precision, report.promise.kept) == ("fp32", False)
    assert report.chosen.reason.endswith("not quantized: no quantized model is faster than the best unquantized one")


def test_in_four_bits_a_slower_one_is_chosen_for_its_size(search: Search) -> None:
    report, _ = search(_backend("quick", takes=10.2, plain=10.0), quantize="int4", eager_ms=20.0)
    assert report.chosen is not None and report.promise is not None
    assert (report.chosen.precision, report.promise.kept) == ("int4", True)
    assert "0.98 times as fast" in report.chosen.reason


def test_how_far_others_are_behind_is_said_of_what_is_chosen(search: Search) -> None:
    report, _ = search(_backend("quick", takes=5, plain=10), target="quick", quantize="int8", eager_ms=15.0)
    chosen, loser, other = report.candidates
    assert "2.00 times as fast" in chosen.reason
    assert loser.reason == "2.00 times the time of the chosen; not quantized"
    assert other.reason == "3.00 times the time of the chosen; for comparison only"


def test_what_is_slower_than_eager_at_a_shape_is_not_chosen_unasked(search: Search) -> None:
    quick = Stated(name="quick", takes=lambda form: 8.0 if not form.is_quantized else (3.0 if form.rows == 1 else 12.0))
    report, _ = search(quick, quantize="int8", shapes=[{"batch": 1}, {"batch": 4}])
    assert report.chosen is not None and report.chosen.precision == "fp32"
    assert "not quantized: it is slower than eager at batch=4" in report.chosen.reason
    assert "not quantized: it is slower than eager at batch=4" in report.notes


def test_no_way_is_proved_for_which_there_is_no_time(search: Search) -> None:
    """To find the route of a way, unquantized models are built and compared, which may take the longest."""
    report, backends = search(*(_backend(name, takes=1, plain=2) for name in ("one", "two", "three")), budget=1e-3)
    tried = [backend.name for backend in backends if not backend.live and backend.sessions]
    assert len(tried) == 1
    skipped = {trial.name.partition("[")[0] for trial in _told(report, "skipped")}
    assert {"one", "two", "three"} - {*tried} <= {word for name in skipped for word in name.split()}


def test_one_recipe_is_owed_however_many_stages_there_are(search: Search) -> None:
    broken = Stated(
        name="broken",
        takes=lambda form: 1,
        loses=lambda form: 9 if form.is_quantized else 0,
        schemes=(DYNAMIC, "weight-only-int8"),
    )
    report, backends = search(broken, quantize="int8", budget=1e-3)
    quantized = [opened for opened in backends[0].sessions if opened.form.is_quantized]
    assert {opened.form.config.scheme for opened in quantized if opened.form.config} == {"dynamic"}
    assert "weight-only-int8" in " ".join(trial.name for trial in _told(report, "skipped"))
