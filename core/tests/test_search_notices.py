"""Notes of a search: a full disk, a busy machine, branches on values, a spent budget."""

from __future__ import annotations

import dataclasses
import errno
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clocks import Clock
from fake_backend import CLOCK, EAGER, QUICK, Acme, Memory, Search, right, slow, wrong
from optimum_core.errors import ResourceError, VerificationError
from optimum_core.hookspecs import hookimpl
from optimum_core.measure import Effort
from optimum_core.measure.cpu_load import CpuLoad, other_load
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.plan import Way
from optimum_core.search.budget import Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.history import Decided
from optimum_core.search.race import disturbance
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Artifact, Measurement, PrecisionHint, Step

Make = Callable[..., Search]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def search(described: Any, tmp_path: Path) -> Make:
    module, signature = described("bert")

    def make(**routes: Any) -> Search:
        return Search(acme=Acme(routes=routes), module=module, signature=signature, place=tmp_path)

    return make


@pytest.mark.parametrize("fault", [FULL, MemoryError(), ResourceError("acme", "the process was killed", "again")])
def test_a_fault_of_the_moment_is_told_and_settles_nothing(search: Make, fault: Exception) -> None:
    found = search(first=fault).run()
    assert found.winner.spec.is_baseline
    assert not found.report.settled
    assert any("for a temporary reason" in note and "acme[first]" in note for note in found.report.notes)


def test_a_lasting_fault_settles(search: Make) -> None:
    found = search(first=wrong).run()
    assert found.report.settled and not found.report.notes


def test_with_a_named_target_the_error_names_the_fault(search: Make) -> None:
    with pytest.raises(ResourceError, match="No space left") as raised:
        search(first=FULL).run("acme")
    assert "sample_inputs" not in str(raised.value)
    with pytest.raises(VerificationError):
        search(first=wrong).run("acme")


def _measured(*times: tuple[float, float]) -> Candidate:
    spec = CandidateSpec(way=Way(backend="acme", device="cpu", precision="fp32"))
    found = tuple(
        Measurement(shape=str(i), median=time, p95=time, runs=9, least=time, spread=spread)
        for i, (time, spread) in enumerate(times)
    )
    return Candidate(spec=spec, signature=None, measurements=found)


def test_what_disturbs_a_measurement_is_said() -> None:
    effort = dataclasses.replace(QUICK, steady=1.5)
    assert disturbance([_measured((1.0, 1.2), (1.0, 1.4))], 0.1, effort) == ""
    assert "factor of 17.0" in disturbance([_measured((1.0, 17.0))], None, effort)
    assert disturbance([_measured((1.0, 1.0))], 0.9, effort) == "other programs took 0.9 cores"
    assert disturbance([_measured((1.0, 17.0))], 0.9, dataclasses.replace(QUICK, steady=math.inf)) == ""


class Unsteady:
    """A deed of which every third call is far shorter than eager's, and the others a little longer."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: Any, artifact: Artifact, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls += 1
        CLOCK.seconds += (1.3 if self.calls % 3 else 0.1) * EAGER
        return eager_outputs(module, inputs)


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """By race that is held, what disturbed it."""
    held: list[str] = []

    def recorded(*arguments: Any) -> str:
        held.append(disturbance(*arguments))
        return held[-1]

    monkeypatch.setattr("optimum_core.search.race.disturbance", recorded)
    return held


def test_a_busy_machine_is_measured_again_and_a_doubtful_choice_is_not_kept(search: Make, races: list[str]) -> None:
    """Medians say that eager is faster, shortest times that it is not: rounds differed too much to tell."""
    effort, budget = dataclasses.replace(QUICK, rounds=3, steady=1.5), Budget(seconds=1e4, stated=True)
    found = search(first=Unsteady()).run(effort=effort, budget=budget)
    assert found.winner.spec.is_baseline
    assert not found.report.settled
    assert any("machine was busy" in note and "factor of 13.0" in note for note in found.report.notes)
    assert len(races) == 3 and all(races), "the race is held twice more"


def test_a_steady_machine_is_measured_once(search: Make, races: list[str]) -> None:
    found = search(first=Unsteady()).run(effort=QUICK, budget=Budget(seconds=1e4, stated=True))
    assert races == [""] and found.report.settled


def test_load_of_other_programs_is_measured_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    with other_load(psutil.cpu_count() or 1) as load:
        sum(range(10000))
    assert load.cores is not None and load.cores >= 0
    with other_load((psutil.cpu_count() or 1) + 1) as unseen:
        pass
    assert unseen == CpuLoad(cores=None)


def _baking(candidate_route: str) -> Acme:
    """A backend whose export by that route took one side of a branch."""

    class Baking(Acme):
        @hookimpl
        def export(self, request: Any) -> Artifact | None:
            made = Acme.export(self, request)
            if made is None or request.route != candidate_route:
                return made
            step = Step(hook="export", backend="acme", tool="t", version="1", options={"branches": ["model.py:3"]})
            return dataclasses.replace(made, steps=(step,))

    return Baking(routes={"first": Memory(), "second": right})


def _over(search: Make, acme: Acme) -> Search:
    return dataclasses.replace(search(), acme=acme)


def test_an_export_that_took_one_side_of_a_branch_gives_way(search: Make) -> None:
    found = _over(search, _baking("first")).run("acme", budget=Budget(seconds=0.0, stated=True))
    assert found.winner.spec.route == "second"
    loser = next(item for item in found.report.candidates if item.options.get("route") == "first")
    assert loser.outcome == "wrong" and "model.py:3" in loser.reason


def test_one_that_took_one_side_of_a_branch_is_tried_first_where_it_won_before(search: Make) -> None:
    acme = _baking("first")
    acme.routes.pop("second")
    before = _over(search, acme).run("acme").winner.spec.id
    assert _over(search, acme).run("acme", decided=Decided(spec=before)).winner.spec.id == before


def test_one_that_took_one_side_of_a_branch_closes_none_that_is_preferred_to_it(search: Make) -> None:
    acme = _baking("first")
    acme.routes["second"] = slow
    found = _over(search, acme).run("acme", effort=dataclasses.replace(QUICK, hopeless=1.5))
    assert found.winner.spec.route == "second"


def test_eager_wins_over_an_export_that_took_one_side(search: Make) -> None:
    acme = _baking("first")
    acme.routes.pop("second")
    assert _over(search, acme).run().winner.spec.is_baseline


def test_where_it_is_the_only_one_the_report_says_so(search: Make) -> None:
    acme = _baking("first")
    acme.routes.pop("second")
    found = _over(search, acme).run("acme")
    assert found.winner.branches == ("model.py:3",)
    assert any("NOT right for all values" in note for note in found.report.notes)


def test_what_a_spec_costs_is_learnt_from_its_like() -> None:
    budget = Budget(seconds=100.0, size=100 * 2**20)
    way = Way(backend="acme", device="cpu", precision="fp32", format="x", exporter="x", exported="x")
    spec, other = (
        CandidateSpec(way=way, route="a"),
        CandidateSpec(way=dataclasses.replace(way, exporter="y"), route="b"),
    )
    assert budget.expected(spec) == pytest.approx(4.5)
    with budget.learning(spec):
        pass
    assert budget.expected(spec) < 0.1
    assert budget.expected(other) == pytest.approx(4.5)
    assert budget.allows(spec) and not Budget(seconds=3.0, size=100 * 2**20).allows(spec)
    assert budget.share(0.4).seconds == pytest.approx(40.0)


def test_a_further_route_of_an_exporter_is_expected_to_be_of_another_kind() -> None:
    way = Way(backend="acme", device="cpu", precision="fp32", format="x", exporter="x", exported="x")
    first, second = CandidateSpec(way=way, route="trace"), CandidateSpec(way=way, route="program")
    budget = Budget(seconds=100.0)
    with budget.learning(first):
        pass
    assert budget.expected(second) == pytest.approx(5.0)
    with budget.learning(second):
        pass
    assert budget.expected(dataclasses.replace(second, way=dataclasses.replace(way, backend="other"))) < 0.1


def test_a_step_is_expected_to_take_longer_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, processor = Clock(), Clock()
    clocks = SimpleNamespace(perf_counter=wall, process_time=processor)
    monkeypatch.setattr("optimum_core.search.budget.time", clocks)
    way = Way(backend="acme", device="cpu", precision="fp32", format="x", exporter="x", exported="x")
    spec, route = CandidateSpec(way=way), CandidateSpec(way=way, route="program")
    busy = Budget(seconds=100.0, _start=-10.0, _computed=-4.0)
    assert busy.expected(spec) == pytest.approx(2.5 * 1.5)
    assert Budget(seconds=100.0, _start=-10.0, _computed=-20.0).expected(spec) == pytest.approx(1.5)
    with busy.learning(spec):
        wall.seconds += 0.06
        processor.seconds += 0.05
    assert busy.expected(spec) == pytest.approx(2.5 * 0.05, rel=0.01), "it may have had the machine for itself"
    assert busy.expected(route) == pytest.approx(2.5 * 5, rel=0.01)


def test_measurements_end_with_a_stated_budget() -> None:
    assert Budget(seconds=1.0, stated=True).limited(Effort()).budget <= 1.0
    assert Budget(seconds=1.0).limited(Effort()) == Effort()


@dataclasses.dataclass(eq=False)
class Overrunning(Acme):
    """A backend with two routes; while the second is exported, the budget ends."""

    budget: Budget = dataclasses.field(default_factory=lambda: Budget(seconds=1e4, stated=True))

    @hookimpl
    def export(self, request: Any) -> Artifact | None:
        if request.route == "second":
            self.budget.seconds = 0.0
        return Acme.export(self, request)


def test_a_trial_ends_with_the_budget_where_something_is_right_already(search: Make) -> None:
    acme = Overrunning(routes={"first": Memory(), "second": right})
    found = _over(search, acme).run("acme", budget=acme.budget)
    skipped = next(item for item in found.report.candidates if item.options.get("route") == "second")
    assert (skipped.outcome, skipped.reason) == ("skipped", "the budget ended while it was tried")
    assert len(acme.sessions) == 1, "nothing is opened any more"
    assert found.winner.spec.route == "first"
    assert any("short runs decided" in note for note in found.report.notes)
    loser = next(item for item in found.report.candidates if item.backend == "torch")
    assert "in a short run" in loser.reason


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (
            PrecisionHint(precision="bf16", backend="x", time_ratio=0.35, error=0.006, verified=True),
            "bf16 would take 0.35 of the time (relative error 0.6%): pass precision='bf16'",
        ),
        (
            PrecisionHint(precision="bf16", backend="x", time_ratio=1.4, error=0.006, verified=True),
            "bf16 would be slower here: 1.40 times the time (relative error 0.6%)",
        ),
        (PrecisionHint(precision="fp16", backend="x", error=0.5), "fp16 on x is too far off (relative error 50.0%)"),
        (PrecisionHint(precision="fp16", backend="x"), "fp16 on x does not run"),
    ],
)
def test_a_precision_that_was_not_asked_for_is_told_in_one_line(hint: PrecisionHint, words: str) -> None:
    assert str(hint) == words
