"""Where the eager model competes, nobody wins who is slower than it at some shape of the workload."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from optimum_core.plan import Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.race import Race
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Measurement


def _candidate(backend: str, times: tuple[float, float], *, live: bool = False) -> Candidate:
    way = Way(backend=backend, device="cpu", precision="fp32", format=None if live else "onnx")
    measured = tuple(
        Measurement(shape=shape, median=time, p95=time, runs=5)
        for shape, time in zip(("1x16", "8x128"), times, strict=True)
    )
    return Candidate(spec=CandidateSpec(way=way), signature=cast(Any, None), measurements=measured, outcome="slower")


def _may_win(finalists: list[Candidate], *, choosable: set[str], objective: str = "latency") -> list[str]:
    race = Race(cast(Any, SimpleNamespace(objective=objective, choosable=choosable)))
    return [item.spec.way.backend for item in race.never_slower(finalists)]


EAGER = _candidate("eager", (10.0, 100.0), live=True)
EVENLY = _candidate("evenly", (8.0, 90.0))
MIXED = _candidate("mixed", (2.0, 130.0))
NOISY = _candidate("noisy", (5.0, 108.0))
ALL = {"eager", "evenly", "mixed", "noisy"}


def test_who_is_slower_at_one_shape_may_not_win_and_is_told_where() -> None:
    assert _may_win([EAGER, EVENLY, MIXED, NOISY], choosable=ALL) == ["eager", "evenly", "noisy"]
    assert MIXED.slower_at == ("8x128",) and not NOISY.slower_at


def test_eager_is_left_when_all_others_are_slower_somewhere() -> None:
    assert _may_win([EAGER, MIXED], choosable=ALL) == ["eager"]


@pytest.mark.parametrize(("choosable", "objective"), [({"mixed"}, "latency"), (ALL, "size")])
def test_a_named_target_and_size_are_not_held_to_it(choosable: set[str], objective: str) -> None:
    assert "mixed" in _may_win([EAGER, MIXED], choosable=choosable, objective=objective)
