"""A call with more time tries what a short budget left untried; others keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimum_core.cache import Cache
from optimum_core.plan import Way
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.search.budget import is_longer, searching_for
from optimum_core.search.history import Decided, History
from optimum_core.search.spec import CandidateSpec
from stated_backend import Deep, Stated, accelerated, eager, made, report_of


def _call(place: Path, **settings: Any) -> AcceleratedModel:
    """Accelerate where a backend that is a little faster than eager comes before one that is far faster."""
    backends = [eager(), Stated(name="a", takes=lambda form: 8.0), Stated(name="b", takes=lambda form: 1.0)]
    return accelerated(place, backends, **{"cache_dir": place / "cache", **settings})


def _changed() -> Any:
    """Return a model of the same shape with other weights."""
    other = made(Deep)
    for parameter in other.parameters():
        parameter.data += 0.125
    return other


def _outcomes(model: AcceleratedModel) -> dict[str, str]:
    return {item.backend: item.outcome for item in report_of(model).candidates}


def test_a_longer_budget_tries_what_a_shorter_one_left(tmp_path: Path) -> None:
    short = _call(tmp_path, budget=0)
    assert _outcomes(short) == {"a": "chosen", "eager": "slower", "b": "skipped"}
    ended_at = report_of(short).ended_at
    assert ended_at is not None and 0 < ended_at < 60
    again = _call(tmp_path, budget=0)
    assert report_of(again).from_cache and report_of(again).ended_at == ended_at
    longer = _call(tmp_path, budget=60)
    assert _outcomes(longer)["b"] == "chosen" and report_of(longer).ended_at is None


@pytest.mark.parametrize("budget", [0, 60, None])
def test_where_nothing_was_left_the_result_is_kept(budget: float | None, tmp_path: Path) -> None:
    assert report_of(_call(tmp_path, budget=30)).ended_at is None
    assert report_of(_call(tmp_path, budget=budget)).from_cache


def test_another_model_of_the_shape_is_searched_for_longer_too(tmp_path: Path) -> None:
    _call(tmp_path, budget=0)
    other = _changed()
    assert _outcomes(_call(tmp_path, module=other, budget=60))["b"] == "chosen"


def test_a_budget_that_is_a_little_longer_changes_nothing(tmp_path: Path) -> None:
    """It has no time for what was left either."""
    _call(tmp_path, budget=0)
    assert report_of(_call(tmp_path, budget=0.01)).from_cache


def test_without_a_stated_budget_a_search_has_the_least_usual_time() -> None:
    assert is_longer(None, 5.0) and is_longer(31.0, 30.0)
    assert not (is_longer(None, 20.0) or is_longer(30.0, 30.0) or is_longer(1e9, None))


def test_a_decision_remembers_the_budget_that_it_was_made_in(tmp_path: Path) -> None:
    spec = CandidateSpec(way=Way(backend="acme", device="cpu", precision="fp32"))
    history = History(cache=Cache(tmp_path), machine={}, question={})
    history.remember(spec, about="a model", ended_at=20.0)
    kept = Decided(spec=spec.id, ended_at=20.0)
    assert [history.decided(budget) for budget in (None, 20.0, 60.0)] == [kept, kept, None]


def test_a_model_that_took_the_decision_of_another_is_searched_for_longer_too(tmp_path: Path) -> None:
    _call(tmp_path, budget=0)
    other = _changed()
    taken = _call(tmp_path, module=other, budget=0)
    assert "same shape" in next(item.reason for item in report_of(taken).candidates if item.backend == "a")
    assert report_of(taken).ended_at is not None
    assert _outcomes(_call(tmp_path, budget=60))["b"] == "chosen"
    assert _outcomes(_call(tmp_path, module=other, budget=60))["b"] == "chosen"


def test_a_search_without_a_stated_budget_is_not_done_again_and_again() -> None:
    with searching_for(3.0):
        assert not is_longer(None, 3.0)
