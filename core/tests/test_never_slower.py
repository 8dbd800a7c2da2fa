"""No candidate wins over a competing eager model if it is slower at some shape of the workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimum_core.types import CandidateResult
from stated_backend import Stated, accelerated, report_of

SHAPES = [{"batch": 1}, {"batch": 8}]


def stated(name: str, one: float, eight: float) -> Stated:
    """A backend by the milliseconds of a call with one row and with eight; "eager" runs the model itself."""
    return Stated(name=name, takes=lambda form: one if form.rows == 1 else eight, live=name == "eager")


def candidates(place: Path, *backends: Stated, **settings: Any) -> dict[str, CandidateResult]:
    """The results by backend."""
    report = report_of(accelerated(place, backends, **{"shapes": SHAPES, **settings}))
    return {item.backend: item for item in report.candidates}


EAGER = ("eager", 10.0, 100.0)
EVENLY = ("evenly", 8.0, 90.0)
MIXED = ("mixed", 2.0, 130.0)
NOISY = ("noisy", 5.0, 108.0)


def test_what_is_slower_at_one_shape_may_not_win_and_says_where(tmp_path: Path) -> None:
    found = candidates(tmp_path, stated(*EAGER), stated(*EVENLY), stated(*MIXED))
    assert [name for name, item in found.items() if item.outcome == "chosen"] == ["evenly"]
    assert "8" in found["mixed"].reason and "slower" in found["mixed"].reason


def test_noise_does_not_count_as_slower(tmp_path: Path) -> None:
    found = candidates(tmp_path, stated(*EAGER), stated(*EVENLY), stated(*NOISY))
    assert found["noisy"].outcome == "chosen"


def test_eager_is_left_when_all_others_are_slower_somewhere(tmp_path: Path) -> None:
    assert candidates(tmp_path, stated(*EAGER), stated(*MIXED))["eager"].outcome == "chosen"


@pytest.mark.parametrize("settings", [{"target": "mixed"}, {"objective": "size"}])
def test_a_named_target_and_size_are_not_held_to_it(settings: dict[str, Any], tmp_path: Path) -> None:
    assert candidates(tmp_path, stated(*EAGER), stated(*MIXED), **settings)["mixed"].outcome == "chosen"


def two_forms(first: float, second: float, **settings: Any) -> Stated:
    """A backend with two formats, by the milliseconds of a call in the one that it prefers, and in the other."""
    times = {"preferred": first, "other": second}
    return Stated(name="forms", formats=("preferred", "other"), takes=lambda form: times[form.format], **settings)


@pytest.mark.parametrize(
    ("first", "second", "chosen"), [(5.05, 5.0, "preferred"), (5.0, 5.05, "preferred"), (5.2, 5.0, "other")]
)
def test_of_two_forms_that_are_as_fast_the_backend_says_which(
    first: float, second: float, chosen: str, tmp_path: Path
) -> None:
    report = report_of(accelerated(tmp_path, [stated(*EAGER), two_forms(first, second)], shapes=[{"batch": 1}]))
    assert report.chosen is not None and report.chosen.name.startswith(chosen)
    faster = [item.reason for item in report.candidates if "as fast" in item.reason]
    assert len(faster) == (first > second and chosen == "preferred")


def test_another_backend_is_not_preferred_for_its_form(tmp_path: Path) -> None:
    """A tie is between forms of one backend: between backends, the faster one wins, however near the other is."""
    slower = Stated(name="slower", takes=lambda form: 5.05)
    report = report_of(accelerated(tmp_path, [stated(*EAGER), slower, two_forms(9.0, 5.0)], shapes=[{"batch": 1}]))
    assert report.chosen is not None and report.chosen.backend == "forms"
