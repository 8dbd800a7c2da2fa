"""When a session prepared for the shapes is worth its load, though the budget is spent."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from optimum_core.plan import Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.search import _Search
from optimum_core.search.spec import CandidateSpec

EAGER = CandidateSpec(way=Way(backend="torch", device="cpu", precision="fp32"))
FAST = CandidateSpec(way=Way(backend="acme", device="cpu", precision="fp32", format="acme", prepares=True))
SLOW = replace(FAST, route="slow")


def _tried(spec: CandidateSpec, pace: float, *, closed: bool = False) -> Candidate:
    session = None if closed else cast(Any, object())
    return Candidate(
        spec=spec, signature=cast(Any, None), session=session, run=lambda inputs: inputs, pace=pace, outcome="slower"
    )


def _needed(
    spec: CandidateSpec, tried: list[Candidate], *, choosable: frozenset[str] = frozenset({"acme", "torch"})
) -> bool:
    search = _Search(cast(Any, SimpleNamespace(choosable=choosable, budget=None, source=None, emit=None)))
    search.tried = tried
    return search._needed(spec)


@pytest.mark.parametrize(("spec", "needed"), [(FAST, True), (SLOW, False)])
def test_the_leader_is_prepared_even_without_budget(spec: CandidateSpec, needed: bool) -> None:
    tried = [_tried(EAGER, 1.0), _tried(FAST, 0.2), _tried(SLOW, 0.4)]
    assert _needed(replace(spec, prepared=True), tried) is needed
    assert not _needed(replace(spec, streams=2), tried), "other variants need budget"


def test_nothing_is_prepared_where_eager_leads_or_the_leader_is_closed() -> None:
    prepared = replace(FAST, prepared=True)
    assert not _needed(prepared, [_tried(EAGER, 1.0), _tried(FAST, 1.5)])
    assert not _needed(prepared, [_tried(EAGER, 1.0), _tried(FAST, 0.5, closed=True), _tried(SLOW, 0.6)])


def test_who_may_not_win_does_not_lead() -> None:
    other = replace(FAST, way=replace(FAST.way, backend="zeta"))
    tried = [_tried(EAGER, 1.0), _tried(other, 0.1), _tried(FAST, 0.2)]
    assert _needed(replace(FAST, prepared=True), tried, choosable=frozenset({"acme"}))
    assert not _needed(replace(other, prepared=True), tried, choosable=frozenset({"acme"}))
