"""Sessions prepared for the shapes are opened, though the budget is spent, where they are worth their load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optimum_core.types import CandidateResult
from stated_backend import Form, Stated, accelerated, eager, report_of

Search = Callable[..., dict[str, CandidateResult]]
MILLISECONDS = {"fast": 2.0, "slow": 4.0}


def _acme(times: float = 1.0, name: str = "acme") -> Stated:
    """Return a backend with a fast and a slow route, whose prepared sessions take less time."""

    def takes(form: Form) -> float:
        return times * MILLISECONDS[str(form.route)] * (0.7 if form.prepared else 1.0)

    return Stated(name=name, takes=takes, routes=("fast", "slow"), prepares=True)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """The candidates of a search by backend, route, and whether they were prepared."""

    def run(*backends: Stated, eager_ms: float = 10.0, **settings: Any) -> dict[str, CandidateResult]:
        with accelerated(tmp_path, [*backends, eager(eager_ms)], **{"budget": 0, **settings}) as fast:
            found = report_of(fast).candidates
        return {
            f"{item.backend} {item.options['route']}{' prepared' if item.options.get('prepared') else ''}": item
            for item in found
            if "route" in item.options
        }

    return run


def test_the_leader_is_prepared_even_without_budget(search: Search) -> None:
    found = search(_acme())
    assert {name: item.outcome for name, item in found.items()} == {
        "acme fast prepared": "chosen",
        "acme fast": "slower",
        "acme slow": "skipped",
        "acme slow prepared": "skipped",
    }
    assert "budget" in found["acme slow"].reason


def test_nothing_is_prepared_where_eager_leads(search: Search) -> None:
    assert search(_acme(times=6.0))["acme fast prepared"].outcome == "skipped"


def test_who_may_not_win_does_not_lead(search: Search) -> None:
    assert search(_acme(times=6.0), target="acme")["acme fast prepared"].outcome == "chosen"


def test_only_the_best_are_prepared_however_much_budget_is_left(search: Search) -> None:
    found = search(_acme(), _acme(times=0.9, name="next"), budget=None)
    assert found["next fast prepared"].outcome == "chosen"
    assert found["acme fast prepared"].outcome == "slower"
    assert found["acme slow prepared"].outcome == "skipped"
    assert found["acme slow prepared"].reason == "it is not among the best unprepared"
