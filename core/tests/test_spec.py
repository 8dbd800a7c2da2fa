"""Candidate specs: which compete, by which name and in which order, whatever the ways are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.plan import FULL_PRECISION, Way
from optimum_core.search.candidate import Candidate
from optimum_core.search.spec import CandidateSpec, specs_of
from optimum_core.types import Artifact, CaseResult, Fidelity

LIVE = Way(backend="torch", device="cpu", precision=FULL_PRECISION, levels=(None, "compile"))
FILES = Way(
    backend="acme",
    device="cpu",
    precision=FULL_PRECISION,
    format="acme",
    exporter="acme",
    exported="acme",
    routes=("first", "second"),
    levels=("all", "some"),
    parallel=True,
)

names = st.sampled_from(["ort", "acme", "zeta"])
some = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True).map(tuple)
precisions = st.sampled_from(["fp32", "bf16", "fp16"])
live_ways = st.builds(
    Way, backend=names, device=st.just("cpu"), precision=precisions, levels=some.map(lambda found: (None, *found))
)
built_ways = st.builds(
    Way,
    backend=names,
    device=st.sampled_from(["cpu", "gpu"]),
    precision=precisions,
    format=st.sampled_from(["onnx", "ir"]),
    exporter=names,
    exported=st.just("onnx"),
    routes=some,
    levels=some,
    parallel=st.booleans(),
)
#: As the planner finds them: no two of one backend, device, precision and format.
many_ways = st.lists(
    live_ways | built_ways,
    min_size=1,
    max_size=6,
    unique_by=lambda way: (way.backend, way.device, way.precision, way.format),
).map(lambda found: [way for way in found if way.format in (None, "onnx")] or [LIVE])
streams = st.sampled_from([(1,), (1, 2), (1, 8)])


@given(many_ways, streams)
def test_every_combination_once_and_no_name_twice(ways: list[Way], counts: tuple[int, ...]) -> None:
    found = specs_of(ways, streams=counts)
    expected = sum(len(way.routes) * len(way.levels) * (len(counts) if way.parallel else 1) for way in ways)
    assert len(found) == len(set(found)) == expected
    assert len({spec.name for spec in found}) == expected


@given(many_ways, streams)
def test_baselines_first_and_what_takes_long_last(ways: list[Way], counts: tuple[int, ...]) -> None:
    found = specs_of(ways, streams=counts)
    baselines = [spec.is_baseline for spec in found]
    assert baselines == sorted(baselines, reverse=True)
    compiled = [spec.cost > 0 for spec in found]
    assert compiled == sorted(compiled)


@given(many_ways, streams, st.data())
def test_winners_of_before_lead_in_their_order(ways: list[Way], counts: tuple[int, ...], data: st.DataObject) -> None:
    plain = specs_of(ways, streams=counts)
    won = data.draw(st.permutations([spec.id for spec in plain]).map(lambda order: order[:3]))
    found = specs_of(ways, streams=counts, won_before=(*won, "one that is gone"))
    assert set(found) == set(plain)
    rest = [spec.id for spec in found if not spec.is_baseline]
    expected = [name for name in won if name in rest]
    assert rest[: len(expected)] == expected


@given(many_ways)
def test_first_routes_before_second_ones(ways: list[Way]) -> None:
    for way in ways:
        ranks = [way.routes.index(spec.route) for spec in specs_of([way]) if not spec.is_baseline and not spec.cost]
        assert ranks == sorted(ranks)


def test_many_streams_only_where_calls_run_side_by_side() -> None:
    found = specs_of([LIVE, FILES], streams=(1, 4))
    assert {spec.streams for spec in found if spec.way is LIVE} == {1}
    assert [spec.name for spec in found][:3] == [
        "torch cpu (the model as it is)",
        "acme[first] → acme cpu, level all, 4 streams",
        "acme[first] → acme cpu, level all",
    ]


def test_sessions_are_prepared_for_stated_shapes_where_that_may_gain() -> None:
    gains = replace(FILES, prepares=True)
    assert not [spec for spec in specs_of([LIVE, gains]) if spec.prepared]
    found = specs_of([LIVE, FILES, replace(gains, backend="zeta")], stated=True)
    assert {spec.way.backend for spec in found if spec.prepared} == {"zeta"}
    assert len({spec.name for spec in found}) == len(found)
    after = [spec.prepared for spec in found if not spec.cost]
    assert after == sorted(after), "what is prepared builds on what was found without"


def test_a_chain_is_in_the_name() -> None:
    way = Way(
        backend="trt",
        device="cuda",
        precision="fp16",
        format="engine",
        exporter="onnx",
        exported="onnx",
        transforms=(("trt", "onnx", "engine"),),
    )
    assert CandidateSpec(way=way).name == "onnx → engine → trt cuda, fp16"


def _result(error: float, *, passed: bool = True) -> CaseResult:
    return CaseResult(
        case=f"case {error}", shapes={}, output="x", relative_error=error, cosine=1.0, agreement=None, passed=passed
    )


def _candidate(described_as: ModelSignature, fidelity: Fidelity | None) -> Candidate:
    artifact = Artifact(format="acme", path=Path(), files=(), inputs=(), outputs=())
    return Candidate(
        spec=CandidateSpec(way=FILES, route="second", level="some", streams=3),
        signature=described_as,
        artifact=artifact,
        fidelity=fidelity,
        outcome="slower",
    )


def test_a_result_in_brief_keeps_the_worst_comparison_and_counts_the_rest(described: object) -> None:
    _, signature = described("bert")  # type: ignore[operator]
    results = (_result(0.1), _result(0.5), _result(0.2, passed=False))
    candidate = _candidate(signature, Fidelity(precision="fp32", tolerance=1.0, results=results))
    brief, whole = candidate.result().fidelity, candidate.result(brief=False).fidelity
    assert brief is not None and whole is not None
    assert (brief.results, brief.compared, brief.passed) == ((results[2],), 3, False)
    assert whole.results == results
    assert candidate.result().options == {"route": "second", "level": "some", "streams": 3}


def test_what_did_not_load_is_not_correct(described: object) -> None:
    _, signature = described("bert")  # type: ignore[operator]
    candidate = _candidate(signature, None)
    assert not candidate.is_correct
    candidate.run = lambda inputs: inputs
    assert candidate.is_correct
    candidate.outcome = "wrong"
    assert not candidate.is_correct
    assert math.isclose(candidate.relative_time, 1.0)
    assert candidate.result().fidelity is None
