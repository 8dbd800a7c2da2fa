"""The search for the towers of a model of pictures or sound with text: each is a model of its own.

On every way that competes, the tower is exported, compared with the eager one at other sizes and numbers of pictures,
and measured beside it. Where it is wrong or slower, the merge's eager tower stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from optimum_core.errors import OptimumError, fault_of_the_moment
from optimum_core.measure import score
from optimum_core.measure.stopwatch import one_line
from optimum_core.measure.workload import Limits, WorkShape, workload
from optimum_core.models.inputs.samples import Case
from optimum_core.models.multimodal.tower_calls import recorded
from optimum_core.models.multimodal.towers import NoTowerError, Tower, TowerSource, tower_of
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.plan import Way
from optimum_core.plugins import PluginManager
from optimum_core.search.budget import Budget
from optimum_core.search.builder import Builder
from optimum_core.search.candidate import Candidate
from optimum_core.search.candidate_search import search
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.references import References
from optimum_core.search.spec import CandidateSpec, specs_of
from optimum_core.types import Artifact

#: Share of the time left that the search for a tower may take.
_SHARE = 0.3


@dataclass(kw_only=True, slots=True)
class _Found:
    """The result of a search: the tower's artifact, if it is not the eager one, and what the report says of it.

    Attributes:
        unfinished: a stated budget ended before all was tried.
    """

    artifact: Artifact | None
    note: str
    unfinished: bool = False


@dataclass(kw_only=True)
class TowerSearch:
    """The towers of one model, searched once for each backend, device and precision.

    Attributes:
        builder: that of the whole model.
        ways: ways to run a model that keeps no state, the eager one among them.
        budget: that of the whole search.
        verify: False leaves the comparison out.
    """

    builder: Builder
    signature: ModelSignature
    ways: Sequence[Way]
    plugins: PluginManager
    budget: Budget
    verify: bool
    _found: dict[tuple[str, ...], _Found] = field(default_factory=dict)

    def __call__(self, spec: CandidateSpec) -> Mapping[str, Artifact]:
        """Return the artifacts of towers for a candidate, by the name of the part."""
        if (place := _place(spec.way)) not in self._found:
            self._found[place] = self._search(spec)
        artifact = self._found[place].artifact
        return {self._tower.name: artifact} if artifact is not None and isinstance(self._tower, Tower) else {}

    def noted(self, result: SearchResult) -> SearchResult:
        """Return the result of the search for the whole with what was found for the towers of its winner."""
        found = self._found.get(_place(result.winner.spec.way))
        if found is None:
            return result
        report = replace(result.report, notes=(*result.report.notes, found.note))
        if found.unfinished and self.budget.stated:
            report = replace(report, ended_at=min(self.budget.seconds, report.ended_at or self.budget.seconds))
        return replace(result, report=report)

    @cached_property
    def _tower(self) -> Tower | str:
        """The tower, or the reason why there is none."""
        source = self.builder.source
        inputs = self.signature.draw(Case(name="towers", padding="none"))
        try:
            return tower_of(source.module(), inputs, source.name)
        except NoTowerError as error:
            return str(error)

    @cached_property
    def _source(self) -> Any:
        assert isinstance(self._tower, Tower)
        return TowerSource(self.builder.source, self._tower)

    @cached_property
    def _references(self) -> References:
        return References(source=self._source, emit=self.builder.emit, budget=self.budget)

    def _search(self, spec: CandidateSpec) -> _Found:
        tower = self._tower
        if not isinstance(tower, Tower):
            return _Found(artifact=None, note=f"the tower stays eager: {tower}")
        about = f"part {tower.name} ({tower.path})"
        if self.budget.is_exhausted:
            return _Found(
                artifact=None, note=f"{about} stays eager: the budget ended before it was tried", unfinished=True
            )
        try:
            result = search(self._context(tower, spec))
        except OptimumError as error:
            if fault_of_the_moment(about, error) is not None:
                raise
            return _Found(artifact=None, note=f"{about} stays eager: {one_line(error)}")
        winner, unfinished = result.winner, result.report.ended_at is not None
        if winner.spec.way.is_eager:
            return _Found(artifact=None, note=f"{about} stays eager: {_why_not(result)}", unfinished=unfinished)
        assert winner.artifact is not None
        artifact = recorded(winner.artifact, tower, winner.signature.ranges)
        return _Found(artifact=artifact, note=f"{about} {_gain(result)}", unfinished=unfinished)

    def _context(self, tower: Tower, spec: CandidateSpec) -> SearchContext:
        builder, way = self.builder.for_tower(self._source), spec.way
        alike = [
            replace(other, routes=tuple(dict.fromkeys((*way.routes, *other.routes))))  # those of the decoder first
            for other in self.ways
            if _place(other) == _place(way) and not other.is_quantized
        ]
        baseline = next(found for found in specs_of(self.ways) if found.is_baseline)
        return SearchContext(
            source=self._source,
            signature=tower.signature,
            specs=(baseline, *specs_of(alike)),
            workload=_workload,
            builder=builder,
            plugins=self.plugins,
            choosable=frozenset({baseline.way.backend, way.backend}),
            may_restrict=True,
            budget=Budget(seconds=_SHARE * self.budget.left, stated=True, size=self._source.size()),
            verify=self.verify,
            references=self._references,
            emit=builder.emit,
        )


def _place(way: Way) -> tuple[str, ...]:
    return way.backend, way.device, way.precision


def _workload(signature: ModelSignature) -> tuple[WorkShape, ...]:
    return workload(None, signature.inputs, Limits.of(signature.ranges, signature.layout.limits))


def _why_not(result: SearchResult) -> str:
    """Return the reason why the eager tower won: that of the best of the others."""
    others = [item for item in result.tried if not item.spec.way.is_eager]
    best = min(others, key=lambda item: (not item.is_correct, item.outcome == "skipped"), default=None)
    return f"{best.spec.name}: {best.reason}" if best is not None else "no backend exports it"


def _gain(result: SearchResult) -> str:
    winner = result.winner
    took = f"runs as {winner.spec.name}"
    eager = next((item for item in result.tried if item.spec.is_baseline and item.measurements), None)
    if eager is not None and winner.measurements:
        took += f", in {_ratio(winner, eager):.2f} of the time of the eager one"
    worst = winner.fidelity.worst if winner.fidelity is not None else None
    return took + (f"; relative error {worst.relative_error:.1e} at most" if worst is not None else "")


def _ratio(one: Candidate, other: Candidate) -> float:
    return score(one.measurements) / score(other.measurements)
