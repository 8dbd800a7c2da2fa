"""The race: what is true is timed side by side, and the best of those that may win is chosen.

Side by side, because the machine's speed drifts: figures of different moments do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optimum_core.measure import Contestant, Effort, measure, pace, score
from optimum_core.measure.workload import WorkShape
from optimum_core.models.blueprint import Blueprint
from optimum_core.models.samples import Case
from optimum_core.tune.candidates import Candidate
from optimum_core.tune.job import Job
from optimum_core.types import Measurement

#: How many candidates stay open for the last race, beside the baseline: each holds the model's weights.
FINALISTS = 4
#: Rough timing right after the check, to know who is worth keeping open.
ROUGH = Effort(rounds=2, seconds=0.04, hopeless=float("inf"))
#: A candidate may take this much more than eager at a shape and not count as slower there: so much is noise.
NOISE = 1.1


class Race:
    """What a job says of winning, applied to candidates; it keeps nothing between calls."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def may_win(self, candidate: Candidate) -> bool:
        """Whether it is asked for, and not there for comparison only."""
        return candidate.entry.way.backend in self.job.choosable

    def time_roughly(self, candidate: Candidate, rivals: Sequence[Candidate]) -> None:
        """Time a candidate beside the best so far, which says its pace.

        Raises:
            OptimumError: it does not run at some shape of the workload.
        """
        best = min(rivals, key=lambda item: item.pace, default=None)
        *others, candidate.measurements = self._measure([*([best] if best else []), candidate], ROUGH)
        if best is not None:
            candidate.pace = best.pace * pace(candidate.measurements) / pace(others[0])

    def close_the_rest(self, rivals: list[Candidate]) -> None:
        """Keep a handful open; all of them while it is size that counts, for then speed says nothing."""
        if self.job.objective == "size":
            return
        rivals.sort(key=lambda item: item.pace)
        # Against those that may win: where a backend was named, its best stays open however fast the eager model is.
        best = next((item for item in rivals if self.may_win(item)), rivals[0])
        limit = self.job.effort.hopeless * best.pace
        for rank, item in enumerate(item for item in rivals if not item.entry.is_baseline):
            if rank >= FINALISTS or item.pace > limit:
                item.close()

    def decide(self, finalists: Sequence[Candidate]) -> Candidate:
        """Measure all of them in full; the winner."""
        for item, measured in zip(finalists, self._measure(finalists, self.job.effort), strict=True):
            item.measurements = measured
        winner = min(self.never_slower(finalists), key=self._score)
        winner.outcome = "chosen"
        return winner

    def never_slower(self, finalists: Sequence[Candidate]) -> list[Candidate]:
        """Who may win: with the eager model among the choices, nobody who is slower than it at some shape."""
        able = [item for item in finalists if self.may_win(item)]
        eager = next((item for item in able if item.entry.is_baseline), None)
        if eager is None or self.job.objective == "size":
            return able
        limits = {item.shape: NOISE * item.median for item in eager.measurements}
        for item in able:
            item.slower_at = tuple(one.shape for one in item.measurements if one.median > limits[one.shape])
        return [item for item in able if item is eager or not item.slower_at]

    def _measure(self, candidates: Sequence[Candidate], effort: Effort) -> list[tuple[Measurement, ...]]:
        shapes = self.job.workload(candidates[0].blueprint)
        contestants = {
            str(i): Contestant(calls=calls_of(item, shapes), streams=item.entry.streams)
            for i, item in enumerate(candidates)
        }
        timed = measure(contestants, shapes, effort)
        return [timed[name] for name in contestants]

    def _score(self, candidate: Candidate) -> float:
        """What is to be least: milliseconds, or with objective "size" bytes."""
        if self.job.objective == "size":
            return float(candidate.size or 0) + 1e-6 * score(candidate.measurements)
        return score(candidate.measurements)

    def explain(self, winner: Candidate, tried: Sequence[Candidate], finalists: Sequence[Candidate]) -> None:
        """Say of the winner why it won, and of all that are true how far behind they are."""
        rivals = [item for item in tried if item.is_true and self.may_win(item)]
        best = "smallest" if self.job.objective == "size" else "fastest"
        if winner.entry.name == self.job.decided:
            winner.problem = "it won for a model of the same shape on this machine before"
        else:
            winner.problem = f"{best} of {len(rivals)} that agree with eager" if len(rivals) > 1 else "the only one"
        for item in tried:
            if item.outcome != "slower":
                continue
            unit = "size" if self.job.objective == "size" else "time"
            raced = any(item is one for one in finalists)
            item.behind = self._score(item) / self._score(winner) if raced else item.pace / winner.pace
            item.problem = f"times the {unit} of the chosen{'' if raced else ', in a short run'}"
            if item.slower_at:
                item.problem += f"; slower than eager at {', '.join(item.slower_at)}"
            if not self.may_win(item):
                item.problem += "; for comparison only"


def calls_of(candidate: Candidate, shapes: Sequence[WorkShape]) -> list[Callable[[], object]]:
    """One call for each shape, on inputs drawn beforehand."""
    run = candidate.run
    assert run is not None
    return [_call(run, drawn_inputs(candidate.blueprint, shape)) for shape in shapes]


def _call(run: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: run(inputs)


def drawn_inputs(blueprint: Blueprint, shape: WorkShape) -> Mapping[str, Any]:
    """Inputs to time with: drawn for the shape, without padding."""
    return blueprint.draw(Case(name=shape.name, lengths=shape.lengths, padding="none", seed=7))
