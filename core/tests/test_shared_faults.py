"""A runtime that gets two exports wrong in the same values is not tried with a third."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimum_core.plan import Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.shared_faults import wrong_alike
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Fidelity
from optimum_core.verify import failed

WAY = Way(backend="acme", device="cpu", precision="fp32", format="x", exporter="x", exported="x")
FIRST, SECOND, THIRD = (CandidateSpec(way=WAY, route=route) for route in ("trace", "program", "other"))


def _wrong(spec: CandidateSpec, case: str = "large", problem: str = "half of it") -> Candidate:
    result = failed(case, {}, "output", problem)
    fidelity = Fidelity(precision="fp32", tolerance=1e-3, results=(result,))
    return Candidate(spec=spec, signature=None, outcome="wrong", fidelity=fidelity)


def test_two_exports_that_are_wrong_alike_stand_for_a_third() -> None:
    second = _wrong(SECOND)
    assert wrong_alike([_wrong(FIRST), second], THIRD, {"large"}) is second


@pytest.mark.parametrize(
    "tried",
    [
        [],
        [_wrong(FIRST)],
        [_wrong(FIRST), _wrong(replace(FIRST, level="all"))],  # one export
        [_wrong(FIRST), _wrong(SECOND, problem="a tenth of it")],
        [_wrong(FIRST, case="batch 2"), _wrong(SECOND, case="batch 2")],  # a branch that both have kept
        [_wrong(FIRST), _wrong(replace(SECOND, way=replace(WAY, backend="other")))],
        [_wrong(FIRST), Candidate(spec=SECOND, signature=None, outcome="failed")],
    ],
)
def test_whatever_else_went_wrong_says_nothing_of_a_third(tried: list[Candidate]) -> None:
    assert wrong_alike(tried, THIRD, {"large"}) is None
