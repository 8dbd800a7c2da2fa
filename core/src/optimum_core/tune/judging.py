"""Candidates of a walk: built, timed beside the best unquantized model, and held to what was promised."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optimum_core.errors import OptimumError
from optimum_core.measure import Contestant, Effort, measure
from optimum_core.measure import pace as least
from optimum_core.measure.stopwatch import first_line, watched
from optimum_core.plan import EXACT, Way
from optimum_core.quantization import Wish
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.evidence import Evidence
from optimum_core.tune.job import Job, Tuned
from optimum_core.tune.race import ROUGH, calls_of, drawn_inputs
from optimum_core.types import Artifact, Promise, Session
from optimum_core.types.quantization import Drop
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.promise import Labelled, Metric, keeps
from optimum_core.verify.quantized import verify_quantized
from optimum_core.verify.reference import reference_cases


@dataclass(frozen=True, kw_only=True, slots=True)
class WalkJob:
    """Everything that a walk needs.

    Attributes:
        wish: what was asked for.
        evidence: what recipes are fitted to and judged on.
        promise: what may be lost of the metric; None: nearness to eager decides, and `drop` of its arg-max.
        floats: the search among unquantized models, whose winner is the answer where no quantized one is.
        job: that search's job.
        ways: those that quantize.
        present: a candidate as the model that `accelerate` would return.
    """

    wish: Wish
    evidence: Evidence
    promise: Promise | None
    drop: Drop | None
    floats: Tuned
    job: Job
    ways: tuple[Way, ...]
    present: Callable[[Candidate], Any]


@dataclass(kw_only=True, slots=True)
class Judged:
    """A candidate as metrics see it."""

    candidate: Candidate
    present: Callable[[Candidate], Any]

    @property
    def run(self) -> Any:
        return self.candidate.run

    def model(self) -> Any:
        """The accelerated model."""
        return self.present(self.candidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a candidate keeps the promise ("kept", "broken" or "failed"), why, and its value of the metric."""

    outcome: Any
    reason: str
    value: float | None = None


@dataclass(kw_only=True, slots=True)
class Court:
    """Builds and judges candidates; every session that it opens is closed with it.

    Attributes:
        pacer: the best unquantized model, opened anew: times are multiples of its.
        unquantized: its value of the metric, once that was asked for.
    """

    job: WalkJob
    pacer: Candidate
    drawn: tuple[ReferenceCase, ...]
    unquantized: float | None = None
    _open: list[Candidate] = field(default_factory=list)
    _right: dict[tuple[str | None, ...], bool] = field(default_factory=dict)

    @classmethod
    def of(cls, job: WalkJob) -> Court:
        """With the unquantized winner open, and eager asked about drawn inputs."""
        search = job.job
        drawn = reference_cases(search.source.module(), search.blueprint)
        court = cls(job=job, pacer=replace(job.floats.winner, session=None), drawn=drawn)
        court._open_session(court.pacer)
        return court

    def close(self) -> None:
        """Close every session that is still open."""
        for candidate in self._open:
            candidate.close()

    @property
    def keeps_unquantized(self) -> bool:
        """Whether the best unquantized model keeps the promise; it is asked once."""
        promise, metric = self.job.promise, self.job.evidence.metric
        if promise is None or metric is None:
            return True
        if self.unquantized is None:
            with watched(self.job.job.emit, "evaluate", "the best unquantized model"):
                self.unquantized = metric.value(self.judged(self.pacer))
        return keeps(promise, self.unquantized)

    def is_right(self, way: Way, route: str | None) -> bool:
        """Whether what is to be quantized is right before that, at shapes that it was not traced with.

        Where the backend cannot run it unquantized, nothing is known against it.
        """
        key = way.exporter, way.exported, route
        if key not in self._right:
            self._right[key] = self._proved(way, route)
        return self._right[key]

    def _proved(self, way: Way, route: str | None) -> bool:
        tried = [item for item in self.job.floats.tried if _start_of(item.entry) == (way.exporter, way.exported, route)]
        known = [item for item in tried if item.outcome != "skipped"]
        if known or way.exported != way.format or not self.job.job.verify:
            return not known or any(item.is_true for item in known)
        search = self.job.job
        entry = Entry(way=replace(way, quantizer=None, scheme=None, precision=EXACT), route=route)
        try:
            artifact = search.builder.build(entry, search.blueprint)
            session = search.builder.open(entry, artifact, ())
        except OptimumError:
            return False
        try:
            with watched(search.emit, "verify", f"{entry.name} against eager"):
                run = search.plugins.binder(session)
                return verify(run, self.drawn, search.blueprint.outputs, precision=EXACT).passed
        finally:
            session.close()

    def built(self, entry: Entry, *, pace: float | None = None) -> Candidate:
        """The candidate, open, and seen to run.

        Args:
            pace: its time as a multiple of the best unquantized model's, where that is known; else it is measured.

        Raises:
            OptimumError: it cannot be built, opened or run; nothing of it stays open.
        """
        search = self.job.job
        candidate = Candidate(entry=entry, blueprint=search.blueprint)
        start = time.perf_counter()
        candidate.artifact = search.builder.build(entry, search.blueprint)
        candidate.build_seconds = time.perf_counter() - start
        candidate.size = search.builder.size(candidate.artifact)
        try:
            self._open_session(candidate)
            if pace is None:
                self.pace([candidate], ROUGH)
            else:
                candidate.pace = pace
        except OptimumError:
            candidate.close()
            raise
        return candidate

    def _open_session(self, candidate: Candidate) -> None:
        search = self.job.job
        assert candidate.artifact is not None
        shapes = [shape.lengths for shape in search.workload(candidate.blueprint)]
        start = time.perf_counter()
        candidate.session = search.builder.open(candidate.entry, candidate.artifact, shapes)
        candidate.load_seconds = time.perf_counter() - start
        candidate.run = search.plugins.binder(candidate.session)
        candidate.outcome = "slower"
        self._open.append(candidate)

    def pace(self, candidates: Sequence[Candidate], effort: Effort) -> None:
        """Measure candidates side by side with the best unquantized model, and note their times as multiples of its."""
        self.time([self.pacer, *candidates], effort)
        for candidate in candidates:
            candidate.pace = least(candidate.measurements) / least(self.pacer.measurements)

    def time(self, candidates: Sequence[Candidate], effort: Effort) -> None:
        """Measure candidates side by side at the workload's shapes."""
        shapes = self.job.job.workload(candidates[0].blueprint)
        contestants = {
            str(i): Contestant(calls=calls_of(item, shapes), streams=item.entry.streams)
            for i, item in enumerate(candidates)
        }
        timed = measure(contestants, shapes, effort)
        for name, item in zip(contestants, candidates, strict=True):
            item.measurements = timed[name]

    def judge(self, candidate: Candidate) -> Verdict:
        """First the form of its outputs and their nearness to eager's, then the metric."""
        promise, metric = self.job.promise, self.job.evidence.metric
        if self.job.job.verify and (problem := self._problem(candidate)):
            return Verdict(outcome="broken", reason=problem, value=None if promise else self._agreement(candidate))
        if promise is None or metric is None:
            return Verdict(outcome="kept", reason="within the tolerance", value=self._agreement(candidate))
        try:
            with watched(self.job.job.emit, "evaluate", candidate.entry.name):
                value = min(one.value(self.judged(candidate)) for one in _asked(metric, candidate))
        except OptimumError as error:  # it gave a number for eager, so this candidate is to blame
            return Verdict(outcome="failed", reason=first_line(error))
        drop = promise.baseline - value
        moved = f"drops by {drop:.4g}" if drop >= 0 else f"rises by {-drop:.4g}"
        why = f"{promise.metric} {moved}; a drop of {promise.limit:.4g} is allowed"
        return Verdict(outcome="kept" if keeps(promise, value) else "broken", reason=why, value=value)

    def shortfall(self, entry: Entry, artifact: Artifact, session: Session) -> float:
        """What a session that a backend is working on lacks to what was promised; 0.0: it keeps that.

        Raises:
            EvaluationError: the metric gives no number for it.
        """
        promise, metric = self.job.promise, self.job.evidence.metric
        assert promise is not None and metric is not None
        search = self.job.job
        tried = Candidate(entry=entry, blueprint=search.blueprint, artifact=artifact, session=session)
        tried.run = search.plugins.binder(session)
        with watched(search.emit, "evaluate", f"{entry.name}, less of it quantized"):
            value = metric.value(self.judged(tried))
        return 0.0 if keeps(promise, value) else promise.baseline - promise.limit - value

    def _problem(self, candidate: Candidate) -> str:
        """What is wrong with its outputs; empty when nothing is. Where a metric decides, only form can be wrong."""
        assert candidate.run is not None
        promise, drop = self.job.promise, self.job.drop
        with watched(self.job.job.emit, "verify", f"{candidate.entry.name} against eager") as stage:
            candidate.fidelity = verify_quantized(
                candidate.run,
                self.drawn,
                self.job.evidence.unseen,
                candidate.blueprint.outputs,
                precision=candidate.entry.precision,
                agreement=1 - drop.limit(1.0) if drop is not None and promise is None else None,
                binding=promise is None,
            )
            worst = candidate.fidelity.worst
            if worst is not None and not worst.passed:
                stage.problem = f"{worst.case}, {worst.output}: {worst.problem}"
        return stage.problem

    @staticmethod
    def _agreement(candidate: Candidate) -> float | None:
        """The least share of equal arg-max on unseen data, where outputs rank."""
        results = candidate.fidelity.results if candidate.fidelity else ()
        return min((item.agreement for item in results if item.agreement is not None), default=None)

    def judged(self, candidate: Candidate) -> Judged:
        """A candidate as metrics see it."""
        return Judged(candidate=candidate, present=self.job.present)

    def prepared(self, winner: Candidate) -> Candidate | None:
        """The winner with a session that knows the workload's shapes, where it computes the same there."""
        assert winner.run is not None
        search = self.job.job
        twin = replace(winner, entry=replace(winner.entry, prepared=True), session=None)
        drawn = [drawn_inputs(winner.blueprint, shape) for shape in search.workload(winner.blueprint)]
        try:
            self._open_session(twin)
            assert twin.run is not None
            cases = tuple(
                ReferenceCase(
                    name="as unprepared", inputs=inputs, outputs=_arrays(winner.run(inputs)), varied=frozenset()
                )
                for inputs in drawn
            )
            same = verify(twin.run, cases, winner.blueprint.outputs, precision=winner.entry.precision)
        except OptimumError:
            return None  # it cannot be prepared for these shapes, and is good as it is
        return twin if same.passed else None


def _asked(metric: Metric, candidate: Candidate) -> list[Metric]:
    """The metric; of a model whose ranges are found in every call also with each item alone, for what else a call holds
    may decide there."""
    config = candidate.entry.config
    if not isinstance(metric, Labelled) or config is None or config.scheme != "dynamic":
        return [metric]
    batched = all(spec.shape and isinstance(spec.shape[0], str) for spec in candidate.blueprint.inputs)
    return [metric, replace(metric, alone=True)] if batched else [metric]


def _start_of(entry: Entry) -> tuple[str | None, ...]:
    """What an entry shares with all that start from the same export."""
    return entry.way.exporter, entry.way.exported, entry.route


def _arrays(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in outputs.items()}
