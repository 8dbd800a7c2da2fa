"""The search: build each way, check it, measure what is true, choose.

One candidate is one way at one export route and one optimization level. Routes of a way are tried in turn until one
verifies; levels that verify compete by speed; the eager model competes too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optimum_core.errors import OptimumError, OptionError, VerificationError
from optimum_core.measure import Effort, measure, score
from optimum_core.models.blueprint import Blueprint
from optimum_core.models.samples import Case
from optimum_core.models.source import Source
from optimum_core.plan import Way
from optimum_core.plugins import PluginManager
from optimum_core.stages import Builder
from optimum_core.types import Artifact, CandidateResult, Event, Fidelity, Measurement, Report, Session
from optimum_core.verify import ReferenceCase, failing_axes, verify
from optimum_core.verify.reference import reference_cases
from optimum_core.workload import WorkShape

#: Lengths at which an axis is fixed when no candidate is right at others; other axes keep the configured length.
PINNED = {"batch": 1, "media_batch": 1, "sequence": 128, "decoder_sequence": 128}
#: Axes that may be fixed without having been asked: data comes at one size through the model's own processor.
FIXED_BY_PROCESSOR = frozenset({"height", "width"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a search needs.

    Attributes:
        exact: a target or shapes were stated, so that a candidate of fewer varying axes is better than none.
        choosable: backends that may win; others are measured for comparison only.
    """

    source: Source
    blueprint: Blueprint
    ways: tuple[Way, ...]
    workload: Callable[[Blueprint], tuple[WorkShape, ...]]
    builder: Builder
    plugins: PluginManager
    choosable: frozenset[str]
    exact: bool
    verify: bool = True
    effort: Effort = field(default_factory=Effort)
    emit: Callable[[Event], None] = lambda event: None


@dataclass(kw_only=True, slots=True)
class Candidate:
    """One way, built; `session` is open while it may still win."""

    name: str
    way: Way
    blueprint: Blueprint
    options: Mapping[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None
    session: Session | None = None
    run: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    fidelity: Fidelity | None = None
    build_seconds: float = 0.0
    load_seconds: float = 0.0
    problem: str = ""
    wrong: bool = False

    def result(self, outcome: Any, reason: str, measurements: tuple[Measurement, ...] = ()) -> CandidateResult:
        """What the report says of it."""
        return CandidateResult(
            name=self.name,
            backend=self.way.backend,
            device=self.session.device if self.session else self.way.device,
            precision=self.way.precision,
            outcome=outcome,
            reason=reason,
            options=self.options,
            fidelity=self.fidelity,
            measurements=measurements,
            build_seconds=self.build_seconds,
            load_seconds=self.load_seconds,
            size=_size(self.artifact),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The winner and the whole story."""

    winner: Candidate
    report: Report
    check: ReferenceCase


def tune(job: Job) -> Tuned:
    """Search, and return the fastest candidate that is true. Sessions of all candidates are closed.

    Raises:
        VerificationError: none is; the message has the table of what was tried.
    """
    search = _Search(job)
    try:
        return search.run()
    finally:
        for candidate in search.candidates:
            if candidate.session is not None:
                candidate.session.close()


class _Search:
    """The state of one search: what was tried so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.candidates: list[Candidate] = []
        self._cases: dict[int, tuple[ReferenceCase, ...]] = {}

    def run(self) -> Tuned:
        for way in self.job.ways:
            self._try_way(way, self.job.blueprint)
        for _ in range(3):
            if self._found(among=self.job.choosable):
                break
            if not self._retry_with_fixed_axes():
                break
        good = [item for item in self.candidates if item.session is not None]
        if not any(item.way.backend in self.job.choosable for item in good):
            raise self._nothing_true()
        return self._choose(good)

    def cases(self, blueprint: Blueprint) -> tuple[ReferenceCase, ...]:
        """Eager's word for a blueprint, asked once."""
        if id(blueprint) not in self._cases:
            with _timed(self.job.emit, "reference", "the eager model on unseen shapes"):
                self._cases[id(blueprint)] = reference_cases(self.job.source.module(), blueprint)
        return self._cases[id(blueprint)]

    def _try_way(self, way: Way, blueprint: Blueprint) -> None:
        for route in way.routes:
            for level in way.levels:
                candidate = self._build(way, route, level, blueprint)
                self.candidates.append(candidate)
                if candidate.problem and not candidate.wrong and candidate.artifact is None and level == way.levels[0]:
                    break  # the export itself failed: no level can mend that
            if self._found(among=frozenset({way.backend})):
                return

    def _found(self, *, among: frozenset[str]) -> bool:
        live = {item.way.backend for item in self.candidates if item.session is not None and not item.way.is_live}
        wanted = {way.backend for way in self.job.ways if not way.is_live} & among
        return bool(live & among) or not wanted

    def _build(self, way: Way, route: str | None, level: str | None, blueprint: Blueprint) -> Candidate:
        candidate = Candidate(
            name=_name(way, route, level),
            way=way,
            blueprint=blueprint,
            options={key: value for key, value in (("route", route), ("level", level)) if value},
        )
        cases = self.cases(blueprint)
        try:
            start = time.perf_counter()
            candidate.artifact = self.job.builder.build(way, route, level, blueprint)
            candidate.build_seconds = time.perf_counter() - start
            start = time.perf_counter()
            session = self.job.builder.open(way, candidate.artifact, blueprint)
            candidate.load_seconds = time.perf_counter() - start
        except OptionError:
            raise  # what was asked for makes no sense: no other candidate can mend that
        except OptimumError as error:
            candidate.problem = _first_line(error)
            return candidate
        candidate.run = self.job.plugins.binder(session)
        self._check(candidate, session, cases)
        return candidate

    def _check(self, candidate: Candidate, session: Session, cases: tuple[ReferenceCase, ...]) -> None:
        """Keep the session if its results are right; close it and say what is wrong otherwise."""
        if not self.job.verify:
            candidate.session = session
            return
        assert candidate.run is not None
        # The live model is the reference itself: one case shows that it runs.
        asked = cases[:1] if candidate.way.is_live else cases
        with _timed(self.job.emit, "verify", f"{candidate.name}: {len(asked)} cases against eager") as event:
            candidate.fidelity = verify(
                candidate.run, asked, candidate.blueprint.outputs, precision=candidate.way.precision
            )
            if candidate.fidelity.passed:
                candidate.session = session
                return
            session.close()
            candidate.wrong = True
            worst = candidate.fidelity.worst
            candidate.problem = f"{worst.case}, {worst.output}: {worst.problem}" if worst else "nothing was compared"
            event.problem = candidate.problem

    def _retry_with_fixed_axes(self) -> bool:
        """Try again what failed at some axis only, with that axis fixed. False: there is nothing of the kind."""
        retries: list[tuple[Way, Blueprint]] = []
        for item in self.candidates:
            if item.fidelity is None or item.fidelity.passed:
                continue
            axes = failing_axes(item.fidelity, self.cases(item.blueprint)) or frozenset()
            allowed = axes if self.job.exact else axes & FIXED_BY_PROCESSOR
            if not axes or allowed != axes:
                continue
            blueprint = self._pinned(item.blueprint, axes)
            way = replace(item.way, routes=(item.options.get("route"),), levels=(item.options.get("level"),))
            retries.append((way, blueprint))
        known = {(item.name, item.blueprint.inputs) for item in self.candidates}
        fresh = [pair for pair in retries if (_way_name(pair[0]), pair[1].inputs) not in known]
        for way, blueprint in fresh:
            self._try_way(way, blueprint)
        return bool(fresh)

    def _pinned(self, blueprint: Blueprint, axes: frozenset[str]) -> Blueprint:
        for axis in sorted(axes):
            limit = blueprint.layout.limits.get(axis, PINNED.get(axis, 0))
            length = min(PINNED[axis], limit) if axis in PINNED else blueprint.layout.lengths[axis]
            blueprint = blueprint.pinned(axis, length)
        known = next((item.blueprint for item in self.candidates if item.blueprint == blueprint), None)
        return known or blueprint

    def _choose(self, good: Sequence[Candidate]) -> Tuned:
        shapes = self.job.workload(good[0].blueprint)
        names = [shape.name for shape in shapes]
        with _timed(self.job.emit, "measure", f"{len(good)} candidates at {', '.join(names)}"):
            timed = measure({str(i): _calls(item, shapes) for i, item in enumerate(good)}, names, self.job.effort)
        scores = {i: score(timed[str(i)]) for i in range(len(good))}
        eligible = [i for i in scores if good[i].way.backend in self.job.choosable]
        best = min(eligible, key=lambda i: scores[i])
        results = [_brief(item.result(*_lost(item))) for item in self.candidates if item.session is None]
        for i, item in enumerate(good):
            outcome, reason = ("chosen", _why_chosen(len(eligible))) if i == best else _slower(scores[i], scores[best])
            if i != best and i not in eligible:
                reason = f"for comparison only; {reason}"
            result = item.result(outcome, reason, timed[str(i)])
            results.append(result if i == best else _brief(result))
        order = {"chosen": 0, "slower": 1}
        results.sort(key=lambda item: (order.get(item.outcome, 2), score(item.measurements or ())))
        report = Report(
            model=self.job.source.name,
            task=self.job.blueprint.task,
            workload=tuple(names),
            candidates=tuple(results),
        )
        winner = good[best]
        return Tuned(winner=winner, report=report, check=self.cases(winner.blueprint)[0])

    def _nothing_true(self) -> VerificationError:
        rows = [f"    {item.name}: {item.problem or 'right, but not what was asked for'}" for item in self.candidates]
        return VerificationError(
            f"model {self.job.source.name!r}",
            "nothing that was built agrees with the eager model:\n" + "\n".join(rows),
            "keep it eager (target='torch'), pass sample_inputs= like your own calls, or report this table",
        )


@dataclass(slots=True)
class _timed:  # noqa: N801 - reads as a statement
    """Emit that a stage begins, and then that it is done, with its seconds and what failed."""

    emit: Callable[[Event], None]
    stage: str
    detail: str
    problem: str = ""
    _start: float = 0.0

    def __enter__(self) -> _timed:
        self.emit(Event(stage=self.stage, detail=self.detail))
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        problem = (
            _first_line(error) if isinstance(error, OptimumError) else self.problem or (str(error) if error else "")
        )
        seconds = time.perf_counter() - self._start
        self.emit(Event(stage=self.stage, detail=self.detail, seconds=seconds, problem=problem))


timed = _timed


def _calls(candidate: Candidate, shapes: Sequence[WorkShape]) -> list[Callable[[], object]]:
    run = candidate.run
    assert run is not None
    drawn = [
        candidate.blueprint.draw(Case(name=shape.name, lengths=shape.lengths, padding="none", seed=7))
        for shape in shapes
    ]
    return [lambda inputs=inputs: run(inputs) for inputs in drawn]  # type: ignore[misc]


def _name(way: Way, route: str | None, level: str | None) -> str:
    if way.is_live:
        return f"{way.backend} {way.device} (the model as it is)"
    exported = f"{way.exported}[{route}]" if route else f"{way.exported}"
    between = "".join(f" → {gives}" for _, _, gives in way.transforms)
    return f"{exported}{between} → {way.backend} {way.device}{f', level {level}' if level else ''}"


def _way_name(way: Way) -> str:
    return _name(way, way.routes[0], way.levels[0])


def _size(artifact: Artifact | None) -> int | None:
    if artifact is None:
        return None
    paths = [artifact.path / name for name in artifact.files]
    return sum(path.stat().st_size for path in paths if Path(path).is_file())


def _first_line(error: OptimumError) -> str:
    lines = [line for line in error.why.splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _brief(result: CandidateResult) -> CandidateResult:
    """Of one that was not chosen, the worst comparison says enough."""
    if result.fidelity is None or result.fidelity.worst is None:
        return result
    return replace(result, fidelity=replace(result.fidelity, results=(result.fidelity.worst,)))


def _lost(candidate: Candidate) -> tuple[str, str]:
    return ("wrong" if candidate.wrong else "failed"), candidate.problem


def _slower(own: float, best: float) -> tuple[str, str]:
    return "slower", f"{own / best:.2f} times the time of the chosen"


def _why_chosen(eligible: int) -> str:
    return f"fastest of {eligible} that agree with eager" if eligible > 1 else "the only one that was asked for"
