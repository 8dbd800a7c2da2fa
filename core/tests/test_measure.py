"""The order of what is measured is right, and effort is not spent on the hopeless. No figure is asserted."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from clocks import Clock
from optimum_core import measure as measuring
from optimum_core.errors import ExportError
from optimum_core.measure import Contestant, measure, score
from optimum_core.measure.stopwatch import one_line
from optimum_core.measure.workload import WorkShape
from optimum_core.types import Measurement

X = WorkShape(name="x", lengths={"batch": 4})
SHORT, LONG = WorkShape(name="short", lengths={}), WorkShape(name="long", lengths={})
Effort = partial(measuring.Effort, settle=0.0)
CLOCK = Clock()
QUICK = Effort(rounds=4, seconds=0.015, hopeless=1.6)


def test_a_reason_of_ours_is_told_whole_and_that_of_others_by_its_first_line() -> None:
    why = "the compiler ended with code 1\n\n  model.mlir:3:5: error: operation is illegal\n  see above"
    told = one_line(ExportError("backend 'acme'", why, "use another route"))
    assert told == "the compiler ended with code 1; model.mlir:3:5: error: operation is illegal; see above"
    assert one_line(ValueError("first\nsecond")) == "first" and one_line(KeyError()) == "KeyError"


@pytest.fixture(autouse=True)
def _as_stated() -> Iterator[None]:
    with measuring.measuring(None, clock=CLOCK):
        yield


def _takes(seconds: float, log: list[str] | None = None, name: str = "") -> Callable[[], object]:
    """Return a call that takes so many seconds by the clock of these tests."""

    def call() -> None:
        if log is not None:
            log.append(name)
        CLOCK.seconds += seconds

    return call


def _one(calls: list[Callable[[], object]], streams: int = 1) -> Contestant:
    return Contestant(calls=calls, streams=streams)


def _measured(median: float) -> Measurement:
    return Measurement(shape="x", median=median, p95=median, runs=1)


def test_the_faster_one_scores_less() -> None:
    found = measure({"slow": _one([_takes(0.01)]), "fast": _one([_takes(0.001)])}, [X], QUICK)
    assert score(found["fast"]) < score(found["slow"])
    for (item,) in found.values():
        assert item.shape == "x"
        assert 0 < item.median <= item.p95


def test_the_hopeless_is_dropped_after_a_round() -> None:
    log: list[str] = []
    found = measure({"slow": _one([_takes(0.01, log, "slow")]), "fast": _one([_takes(0.001)])}, [X], QUICK)
    assert log.count("slow") > found["slow"][0].runs
    assert 1 <= found["slow"][0].runs <= 2
    assert found["fast"][0].runs > found["slow"][0].runs


def test_none_is_hopeless_where_patience_is_endless_and_slow_calls_are_warmed_once() -> None:
    log: list[str] = []
    patient = Effort(rounds=3, seconds=0.005, hopeless=math.inf)
    measure({"slow": _one([_takes(0.01, log, "slow")]), "fast": _one([_takes(0.001)])}, [X], patient)
    assert log.count("slow") == 3 + 1


def test_a_slow_first_call_counts_where_that_is_wanted() -> None:
    log: list[str] = []
    effort = Effort(rounds=2, seconds=0.005, slow=0.01)
    (item,) = measure({"slow": _one([_takes(0.02, log, "slow")])}, [X], effort)["slow"]
    assert (item.runs, len(log)) == (2, 2), "a call for each round, and none to warm up"


def test_rounds_alternate_against_drift() -> None:
    log: list[str] = []
    calls = {name: _one([_takes(0.004, log, name)]) for name in "ab"}
    measure(calls, [X], Effort(rounds=3, seconds=0.001, hopeless=math.inf))
    assert "".join(log) == "aabb" + "ba" + "ab"


def test_every_shape_has_its_figure_and_every_call_its_warm_up() -> None:
    log: list[str] = []
    calls = {"one": _one([_takes(0.001, log, "short"), _takes(0.01, log, "long")])}
    found = measure(calls, [SHORT, LONG], Effort(rounds=2, seconds=0.005))
    short, long = found["one"]
    assert (short.shape, long.shape) == ("short", "long")
    assert short.median < long.median
    assert log.count("short") > short.runs
    assert log.count("long") > long.runs


def test_every_candidate_has_a_round_whatever_the_budget() -> None:
    log: list[str] = []
    calls = {name: _one([_takes(0.001, log, name)]) for name in "ab"}
    found = measure(calls, [X], Effort(rounds=50, seconds=0.001, hopeless=math.inf, budget=0.0))
    assert all(found[name][0].runs >= 1 for name in "ab")
    assert "".join(log).startswith("a")
    assert "ba" not in "".join(log)


def test_calls_side_by_side_take_less_time_each() -> None:
    together = threading.Barrier(4, action=CLOCK.taking(0.01))  # never passed by calls one after another
    four = _one([partial(together.wait, 60)], streams=4)
    found = measure({"alone": _one([_takes(0.01)]), "four": four}, [X], QUICK)
    assert score(found["four"]) == pytest.approx(10 / 4)
    assert score(found["four"]) < score(found["alone"])
    assert found["four"][0].throughput > found["alone"][0].throughput > 0


def test_throughput_counts_the_items_of_a_call() -> None:
    one = Measurement(shape="x", median=2.0, p95=2.0, runs=1)
    assert one.throughput == 500
    assert Measurement(shape="x", median=2.0, p95=2.0, runs=1, items=8).throughput == 4000
    assert measure({"a": _one([_takes(0.001)])}, [X], QUICK)["a"][0].items == 4


def test_calls_are_timed_by_the_clock_that_was_passed() -> None:
    clock = Clock()
    with measuring.measuring(None, clock=clock):
        (found,) = measure({"one": _one([clock.taking(0.25)])}, [X], Effort(rounds=2, seconds=0.5))["one"]
    assert (found.median, found.least, found.runs) == (250.0, 250.0, 4)


def test_what_fails_is_heard() -> None:
    def broken() -> object:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure({"one": _one([broken])}, [X], QUICK)


def test_a_call_for_each_shape_is_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        measure({"one": _one([_takes(0.0)])}, [SHORT, LONG], QUICK)


def test_the_score_weighs_shapes_by_ratio() -> None:
    assert score([_measured(2.0), _measured(8.0)]) == pytest.approx(4.0)
    assert score([_measured(1.0), _measured(100.0)]) < score([_measured(2.0), _measured(100.0)])


def test_what_was_not_measured_never_wins() -> None:
    assert score([]) == math.inf
    assert 0 < score([_measured(0.0)]) < score([_measured(0.1)])
