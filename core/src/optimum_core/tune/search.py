"""The search: build what competes, check it, race what is true.

Candidates are tried in the order of their likelihood while the budget lasts. Each is checked against eager and timed
roughly at once; only a handful stay open, and those race to the end. An export route that is not right makes way for
the next one whatever the budget, and an axis at which nothing is right is fixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optimum_core.errors import OptimumError, OptionError, VerificationError
from optimum_core.measure import score
from optimum_core.measure.stopwatch import first_line, watched, watched_memory
from optimum_core.measure.workload import WorkShape
from optimum_core.models.blueprint import Blueprint
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.job import Job, Tuned
from optimum_core.tune.race import Race
from optimum_core.types import Fidelity, Measurement, Report
from optimum_core.verify import ReferenceCase, failing_axes, verify
from optimum_core.verify.quantized import verify_quantized
from optimum_core.verify.reference import cases_at, cases_taken, reference_cases

#: Lengths at which an axis is fixed when no candidate is right at others; other axes keep the configured length.
PINNED = {"batch": 1, "media_batch": 1, "sequence": 128, "decoder_sequence": 128}
#: Axes that may be fixed without having been asked: data comes at one size through the model's own processor.
FIXED_BY_PROCESSOR = frozenset({"height", "width"})
#: Seconds that a search takes at least and at most when nobody states a budget, and of how many eager calls at every
#: shape between them.
BUDGETS = (15.0, 60.0)
WORTH = 150


def tune(job: Job) -> Tuned:
    """Search, and return the best candidate that is true. Sessions of all candidates are closed.

    Raises:
        VerificationError: none is; the message has the table of what was tried.
    """
    search = _Search(job)
    try:
        return search.run()
    finally:
        for candidate in search.tried:
            candidate.close()


class _Search:
    """The state of one search: what was tried so far, and eager's word on it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.race = Race(job)
        self.tried: list[Candidate] = []
        self._cases: dict[int, tuple[ReferenceCase, ...]] = {}
        self._at_work: dict[int, tuple[ReferenceCase, ...]] = {}
        self._start = time.perf_counter()
        self._budget = BUDGETS[1] if job.budget is None else job.budget

    def run(self) -> Tuned:
        for entry in self._worth_trying():
            if entry.prepared and not self._worth_preparing(entry):
                self._skip(entry, "it is not among the best unprepared")
            elif self._left() < entry.cost and not self._needed(entry):
                self._skip(entry, f"the budget of {self._budget:.0f} s does not allow for it")
            else:
                self._try(entry, self.job.blueprint)
        for _ in range(3):
            if self._something_built_is_true() or not self._retry_with_fixed_axes():
                break
        if not any(item.is_true and self.race.may_win(item) for item in self.tried):
            raise self._nothing_true()
        return self._race()

    # Which entries.

    def _worth_trying(self) -> Sequence[Entry]:
        """The entries: all, or the one that won for a model of this shape with the baseline, when it is still true."""
        known = [entry for entry in self.job.entries if entry.name == self.job.decided]
        if not known:
            return self.job.entries
        for entry in dict.fromkeys((*known, *(entry for entry in self.job.entries if entry.is_baseline))):
            self._try(entry, self.job.blueprint)
        done = {item.entry for item in self.tried}
        rest = [entry for entry in self.job.entries if entry not in done]
        if not next(item for item in self.tried if item.entry == known[0]).is_true:
            return rest
        for entry in rest:
            self._skip(entry, "another won for a model of the same shape on this machine before")
        return ()

    def _left(self) -> float:
        """Seconds of the budget; below zero when it is spent."""
        return self._budget - (time.perf_counter() - self._start)

    def _needed(self, entry: Entry) -> bool:
        """Whether this must be tried even without budget: nothing built is true yet, or it improves on the best."""
        if entry.is_baseline:
            return True
        true = [item for item in self.tried if item.is_true and not item.entry.way.is_live and self.race.may_win(item)]
        return (not true and not entry.way.is_live) or (entry.prepared and self._twin_leads(entry))

    def _twin_leads(self, entry: Entry) -> bool:
        """Whether the same without preparation is the best so far: preparing that one costs a load, and often wins."""
        open_ones = [item for item in self.tried if item.session is not None and self.race.may_win(item)]
        leader = min(open_ones, key=lambda item: item.pace, default=None)
        return leader is not None and leader.entry == replace(entry, prepared=False)

    def _worth_preparing(self, entry: Entry) -> bool:
        """Whether the same without preparation is among the best, or was not tried."""
        plain = replace(entry, prepared=False)
        return all(item.session is not None for item in self.tried if item.entry == plain)

    def _something_built_is_true(self) -> bool:
        built = [item for item in self.tried if not item.entry.way.is_live and self.race.may_win(item)]
        return not built or any(item.is_true for item in built)

    def _skip(self, entry: Entry, why: str) -> None:
        self.tried.append(Candidate(entry=entry, blueprint=self.job.blueprint, outcome="skipped", problem=why))

    # Trying one.

    def _try(self, entry: Entry, blueprint: Blueprint) -> None:
        candidate = Candidate(entry=entry, blueprint=blueprint)
        self.tried.append(candidate)
        shapes = self.job.workload(blueprint)
        cases = (*self.cases(blueprint), *(self._cases_of_work(blueprint, shapes) if entry.prepared else ()))
        start = time.perf_counter()
        try:
            candidate.artifact = self.job.builder.build(entry, blueprint)
            candidate.build_seconds = time.perf_counter() - start
            candidate.size = self.job.builder.size(candidate.artifact)
            with watched_memory() as memory:
                start = time.perf_counter()
                candidate.session = self.job.builder.open(
                    entry, candidate.artifact, [shape.lengths for shape in shapes]
                )
                candidate.load_seconds = time.perf_counter() - start
                candidate.run = self.job.plugins.binder(candidate.session)
                module = self.job.source.module()
                self._check(candidate, cases_taken(candidate.session, module, blueprint, cases))
            candidate.memory = memory.growth
        except OptionError:
            raise  # what was asked for makes no sense: no other candidate can mend that
        except OptimumError as error:
            candidate.problem = first_line(error)
            candidate.close()
            return
        if candidate.is_true:
            self._time_roughly(candidate)

    def _check(self, candidate: Candidate, cases: tuple[ReferenceCase, ...]) -> None:
        """Compare with eager, and close what is wrong."""
        candidate.outcome = "slower"
        if not self.job.verify:
            return
        assert candidate.run is not None
        # The baseline is the reference itself: one case shows that it runs.
        asked = cases[:1] if candidate.entry.is_baseline else cases
        detail = f"{candidate.entry.name}: {_count(len(asked), 'case')} against eager"
        with watched(self.job.emit, "verify", detail) as stage:
            candidate.fidelity = self._compared(candidate, candidate.run, asked)
            worst = candidate.fidelity.worst
            if not candidate.fidelity.passed:
                candidate.outcome = "wrong"
                candidate.problem = f"{worst.case}, {worst.output}: {worst.problem}" if worst else "nothing compared"
                candidate.close()
                stage.problem = candidate.problem

    def _compared(
        self, candidate: Candidate, run: Callable[[Mapping[str, Any]], Any], cases: tuple[ReferenceCase, ...]
    ) -> Fidelity:
        outputs = candidate.blueprint.outputs
        if self.job.held_to is not None:
            return verify_quantized(run, cases, (), outputs, precision=self.job.held_to, ties=True)
        return verify(run, cases, outputs, precision=candidate.entry.way.precision)

    def cases(self, blueprint: Blueprint) -> tuple[ReferenceCase, ...]:
        """Eager's word for a blueprint, asked once."""
        if id(blueprint) not in self._cases:
            with watched(self.job.emit, "reference", "the eager model on unseen shapes"):
                self._cases[id(blueprint)] = reference_cases(self.job.source.module(), blueprint)
        return self._cases[id(blueprint)]

    def _cases_of_work(self, blueprint: Blueprint, shapes: Sequence[WorkShape]) -> tuple[ReferenceCase, ...]:
        """Eager's word at the very shapes of the workload, for sessions that do something else there."""
        key = id(blueprint)
        if key not in self._at_work:
            named = {f"as in the workload, {shape.name}": shape.lengths for shape in shapes}
            self._at_work[key] = cases_at(self.job.source.module(), blueprint, named)
        return self._at_work[key]

    # Axes that nothing is right at.

    def _retry_with_fixed_axes(self) -> bool:
        """Try again what failed at some axes only, with those fixed. False: there is nothing of the kind."""
        known = {(item.entry, item.blueprint.inputs) for item in self.tried}
        fresh = [
            (item.entry, self._pinned(item.blueprint, axes))
            for item in list(self.tried)
            if (axes := self._fixable_axes(item)) and not item.entry.way.is_live
        ]
        fresh = [pair for pair in fresh if (pair[0], pair[1].inputs) not in known]
        for entry, blueprint in fresh:
            self._try(entry, blueprint)
        return bool(fresh)

    def _fixable_axes(self, candidate: Candidate) -> frozenset[str]:
        """The axes to blame, when fixing them was asked for or costs nothing."""
        if candidate.fidelity is None or candidate.fidelity.passed:
            return frozenset()
        axes = failing_axes(candidate.fidelity, self.cases(candidate.blueprint)) or frozenset()
        return axes if self.job.exact or axes <= FIXED_BY_PROCESSOR else frozenset()

    def _pinned(self, blueprint: Blueprint, axes: frozenset[str]) -> Blueprint:
        for axis in sorted(axes):
            length = (
                min(PINNED[axis], blueprint.layout.longest(axis)) if axis in PINNED else blueprint.layout.lengths[axis]
            )
            blueprint = blueprint.pinned(axis, length)
        same = (item.blueprint for item in self.tried if item.blueprint.inputs == blueprint.inputs)
        return next(same, blueprint)

    # Racing.

    def _time_roughly(self, candidate: Candidate) -> None:
        """Time a candidate beside the best so far, and close whoever is no longer among the best."""
        rivals = [item for item in self.tried if item.session is not None and item is not candidate]
        try:
            self.race.time_roughly(candidate, rivals)
        except OptimumError as error:  # right where it was checked, and does not run where it is to be fast
            candidate.outcome, candidate.problem = "failed", first_line(error)
            candidate.close()
            return
        if candidate.entry.is_baseline and self.job.budget is None:
            self._budget = _worth(candidate.measurements)
        self.race.close_the_rest([*rivals, candidate])

    def _race(self) -> Tuned:
        finalists = [item for item in self.tried if item.session is not None]
        shapes = self.job.workload(finalists[0].blueprint)
        detail = f"{_count(len(finalists), 'candidate')} at {', '.join(shape.name for shape in shapes)}"
        with watched(self.job.emit, "measure", detail):
            winner = self.race.decide(finalists)
        self.race.explain(winner, self.tried, finalists)
        order = {"chosen": 0, "slower": 1}
        self.tried.sort(key=lambda item: (order.get(item.outcome, 2), score(item.measurements)))
        report = Report(
            model=self.job.source.name,
            task=self.job.blueprint.task,
            workload=tuple(shape.name for shape in shapes),
            candidates=tuple(item.result(brief=item is not winner) for item in self.tried),
            objective=self.job.objective,
            seconds=time.perf_counter() - self._start,
            notes=self.job.blueprint.notes,
        )
        return Tuned(winner=winner, report=report, check=self.cases(winner.blueprint)[0], tried=tuple(self.tried))

    def _nothing_true(self) -> VerificationError:
        rows = [f"    {item.entry.name}: {item.reason or 'right, but not asked for'}" for item in self.tried]
        return VerificationError(
            f"model {self.job.source.name!r}",
            "nothing that was built agrees with the eager model:\n" + "\n".join(rows),
            "keep it eager (target='torch'), pass sample_inputs= like your own calls, or report this table",
        )


def _worth(eager: Sequence[Measurement]) -> float:
    """Seconds that a search may take by itself: what is quick as it is has little to win."""
    calls = WORTH * sum(item.median for item in eager) / 1e3
    return min(max(calls, BUDGETS[0]), BUDGETS[1])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
