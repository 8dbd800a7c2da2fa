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
