"""The race: correct candidates are timed side by side, and the best of those that may win is chosen.

They are timed side by side because the machine's speed drifts: times taken at different moments do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from optimum_core.errors import OptimumError
from optimum_core.measure import Effort, energy_score, least_score, score
from optimum_core.measure.cpu_load import other_load
from optimum_core.search.candidate import Candidate
from optimum_core.types import Measurement

if TYPE_CHECKING:  # it imports torch, without which an artifact is tuned
    from optimum_core.search.context import SearchContext

#: Number of candidates that stay open for the last race, beside the baseline: each holds the model's weights.
FINALISTS = 4
#: Effort of the rough timing right after the check, which decides which candidates stay open.
ROUGH = Effort(rounds=2, seconds=0.04, hopeless=float("inf"), slow=0.25)
#: Effort of the first look at a candidate, before the many calls of its comparison.
GLANCE = Effort(rounds=1, seconds=0.01, calls=3, hopeless=float("inf"), slow=0.25)
#: Ratio to the eager model's time from which a candidate is far behind: nothing that disturbs a few calls explains it.
FAR_BEHIND = 3.0
#: Ratio up to which a candidate does not count as slower than the eager model at a shape: that much is noise.
NOISE = 1.1
#: Ratio of times up to which two forms of a model in one backend are as fast: races disagree about less.
TIE = 1.02
#: Cores that other programs may keep busy, on average, before figures are doubted.
_BUSY_CORES = 0.4
#: By objective, the word for the best, and the quantity that decides; time for all others.
_WORDS = {"size": ("smallest", "size"), "energy": ("most sparing", "energy")}
#: Further races where the first was disturbed.
_REPEATS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The winner of a race.

    Attributes:
        disturbance: description of other load during the race; empty for a quiet machine.
        in_full: False: the budget was spent before, and the short runs of each candidate's trial decided.
        settled: whether the same candidate would win by the shortest times, which a busy machine disturbs least.
    """

    winner: Candidate
    disturbance: str = ""
    settled: bool = True
    in_full: bool = True


class Race:
    """The rules of a context for winning, applied to candidates; no state is kept between calls."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    def may_win(self, candidate: Candidate) -> bool:
        """Whether a candidate may be chosen, rather than being measured for comparison only."""
        return candidate.spec.way.backend in self.context.choosable

    def time_roughly(self, candidate: Candidate, rivals: Sequence[Candidate]) -> None:
        """Time a candidate beside the best so far, and set its relative time.

        Raises:
            OptimumError: it does not run at some shape of the workload.
        """
        best = min(rivals, key=lambda item: item.relative_time, default=None)
        known = best.measurements if best is not None else ()
        # Where the time is stated, eager is timed at the other shapes beside the first candidate, or in the last race.
        first = 1 if candidate.spec.is_baseline and best is None and self.context.budget.stated else None
        timed = [*([best] if best else []), candidate]
        self.context.trials.time(timed, self.context.budget.limited(ROUGH), first=first)
        if best is not None:
            candidate.relative_time = best.relative_time * self._ratio(candidate, best)
            best.measurements = known if len(known) == len(candidate.measurements) else best.measurements

    def far_behind(self, candidate: Candidate, tried: Sequence[Candidate]) -> str:
        """Return by how much a candidate is too slow to win, at the first shape; empty: it may not be.

        It may still be right: a comparison by a slow engine would take the time of all other candidates, and where the
        eager model may win, one that takes longer at any shape cannot. Where it does not run, its comparison says more.
        """
        eager = next((item for item in tried if item.spec.is_baseline and item.session and item.measurements), None)
        if eager is None or self.context.objective == "size" or not self.may_win(eager):
            return ""
        known, effort = eager.measurements, self.context.budget.limited(GLANCE)
        with suppress(OptimumError):
            self.context.trials.time([candidate], effort, first=1)
        ratio, shape = _ratio_at_first(candidate, known), known[0].shape
        if ratio > FAR_BEHIND:  # the machine's speed drifts: once more, beside each other
            self.context.trials.time([eager, candidate], effort, first=1)
            ratio = min(ratio, _ratio_at_first(candidate, eager.measurements))
            eager.measurements = known
        candidate.measurements = ()
        return (
            f"it takes {ratio:.1f} times as long as eager at {shape}, and was not compared"
            if ratio > FAR_BEHIND
            else ""
        )

    def _ratio(self, candidate: Candidate, best: Candidate) -> float:
        """Return the ratio of their shortest times, or of their joules where these decide and both were counted."""
        pair = candidate.measurements, best.measurements
        if self.context.objective == "energy":
            one, other = map(energy_score, pair)
            if isfinite(one) and isfinite(other):
                return one / other
        one, other = map(least_score, pair)
        return one / other

    def close_the_rest(self, rivals: list[Candidate]) -> None:
        """Close all candidates but the fastest few; none if size decides, since speed then says nothing.

        One whose export took one side of a branch on values closes none without that, which is preferred to it.
        """
        if self.context.objective == "size":
            return
        sure = [item for item in rivals if item.is_general]
        self._close_behind(sure)
        if len(sure) < len(rivals):
            self._close_behind(rivals, spared=sure)

    def _close_behind(self, rivals: list[Candidate], spared: Sequence[Candidate] = ()) -> None:
        if not rivals:
            return
        rivals.sort(key=lambda item: item.relative_time)
        kept = {id(item) for item in spared}
        # Compared with those that may win: if a backend was named, its best stays open however fast the eager model is,
        # and one that is slower than the eager model at some shape does not close another that is never slower.
        best = next(iter(self._slower_nowhere(rivals, lambda item: item.median)), rivals[0])
        limit = self.context.effort.hopeless * best.relative_time
        for rank, item in enumerate(item for item in rivals if not item.spec.is_baseline):
            if (rank >= FINALISTS or item.relative_time > limit) and id(item) not in kept:
                item.close()

    def decide(self, finalists: Sequence[Candidate]) -> Decision:
        """Measure all finalists in full, again if disturbed while the budget lasts, and return the winner; without time
        for that, the winner by their short runs."""
        shapes = self.context.workload(finalists[0].signature)
        all_timed = all(len(item.measurements) == len(shapes) for item in finalists)
        in_full = not self.context.budget.is_spent or not all_timed
        disturbed = self._measured_in_full(finalists) if in_full else disturbance(finalists, None, self.context.effort)
        allowed, figure = self.never_slower(finalists), self.score if in_full else self._rough_score
        winner = self._preferred(min(allowed, key=figure), allowed, figure)
        winner.outcome = "chosen"
        settled = not disturbed or self._by_shortest(finalists) is winner
        return Decision(winner=winner, disturbance=disturbed, settled=settled, in_full=in_full)

    def _measured_in_full(self, finalists: Sequence[Candidate]) -> str:
        """Time the finalists, again if disturbed; return a description of the last disturbance, empty if there was
        none."""
        for number in range(1 + _REPEATS):
            if number and not self.context.budget.left:
                break
            if not (disturbed := self._measured(finalists)):
                break
        return disturbed

    def _measured(self, finalists: Sequence[Candidate]) -> str:
        """Time the finalists; return a description of the disturbance, empty if there was none."""
        effort = self.context.budget.limited(self.context.effort)
        with other_load(self.context.usable_cores) as load:
            self.context.trials.time(finalists, effort)
        return disturbance(finalists, load.cores, effort)

    def never_slower(self, finalists: Sequence[Candidate]) -> list[Candidate]:
        """Return the finalists that may win; if the eager model is among them, none that is slower than it at any
        shape."""
        able, slower = self._allowed(finalists, lambda item: item.median)
        for item in able:
            item.slower_at = slower[id(item)]
        return [item for item in able if item.spec.is_baseline or not item.slower_at]

    def _by_shortest(self, finalists: Sequence[Candidate]) -> Candidate:
        """Return the winner by the shortest times."""
        allowed = self._slower_nowhere(finalists, lambda item: item.least)
        if self.context.objective in ("size", "energy"):
            return min(allowed, key=self.score)

        def figure(item: Candidate) -> float:
            return least_score(item.measurements)

        return self._preferred(min(allowed, key=figure), allowed, figure)

    def _preferred(
        self, best: Candidate, allowed: Sequence[Candidate], figure: Callable[[Candidate], float]
    ) -> Candidate:
        """Return the best, or one of its backend that is as fast and of a format that the backend prefers: it knows
        which of them takes less memory, say, and the choice does not change from race to race."""
        if self.context.objective in ("size", "energy") or best.spec.way.is_eager:
            return best
        as_fast = (item for item in allowed if figure(item) <= TIE * figure(best) and _differs_in_form(item, best))
        return min((best, *as_fast), key=lambda item: (item.spec.way.rank, figure(item)))

    def _slower_nowhere(self, finalists: Sequence[Candidate], time: Callable[[Measurement], float]) -> list[Candidate]:
        """Return those that may win and, by these times, are not slower than an eager model among them at any shape."""
        able, slower = self._allowed(finalists, time)
        return [item for item in able if item.spec.is_baseline or not slower[id(item)]]

    def _allowed(
        self, finalists: Sequence[Candidate], time: Callable[[Measurement], float]
    ) -> tuple[list[Candidate], dict[int, tuple[str, ...]]]:
        """Return those that may win, and the shapes at which each is slower than an eager model among them."""
        able = [item for item in finalists if self.may_win(item)]
        eager = next((item for item in able if item.spec.is_baseline), None)
        if eager is None or self.context.objective == "size":
            return able, {id(item): () for item in able}
        limits = {item.shape: NOISE * time(item) for item in eager.measurements}
        return able, {
            id(item): tuple(one.shape for one in item.measurements if time(one) > limits[one.shape]) for item in able
        }

    def score(self, candidate: Candidate) -> float:
        """Return the figure to minimize: milliseconds, or with objective "size" bytes, with "energy" joules."""
        if self.context.objective == "size":
            return float(candidate.size or 0) + 1e-6 * score(candidate.measurements)
        if self.context.objective == "energy":
            return energy_score(candidate.measurements)
        return score(candidate.measurements)

    def _rough_score(self, candidate: Candidate) -> float:
        """Return the figure to minimize where short runs decide, each beside the best so far."""
        return self.score(candidate) if self.context.objective == "size" else candidate.relative_time

    def explain(self, winner: Candidate, tried: Sequence[Candidate], finalists: Sequence[Candidate]) -> None:
        """Record why the winner won, and how far behind it the other correct candidates are."""
        rivals = [item for item in tried if item.is_correct and self.may_win(item)]
        best, unit = _WORDS.get(self.context.objective, ("fastest", "time"))
        if self.context.decided is not None and winner.spec.id == self.context.decided.spec:
            winner.problem = "it won for a model of the same shape on this machine before"
        else:
            winner.problem = f"{best} of {len(rivals)} that agree with eager" if len(rivals) > 1 else "the only one"
        for item in tried:
            if item.outcome == "slower":
                item.raced, item.unit = any(item is one for one in finalists), unit
                roughly = item.relative_time / winner.relative_time
                item.behind = self.score(item) / self.score(winner) if item.raced else roughly
                item.for_comparison = not self.may_win(item)
                if item.raced and item.behind < 1 and _differs_in_form(item, winner):
                    item.problem = "as fast; its backend prefers the form that was chosen"


def _differs_in_form(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates differ by nothing but the files that their backend opens."""
    first, second = (
        (spec.way.backend, spec.way.device, spec.way.precision, spec.way.scheme, spec.streams, spec.prepared)
        for spec in (one.spec, other.spec)
    )
    return first == second


def _ratio_at_first(candidate: Candidate, measured: Sequence[Measurement]) -> float:
    """Return the ratio of the shortest times at the first shape; 0.0 where the candidate was not measured."""
    if not candidate.measurements:
        return 0.0
    return candidate.measurements[0].least / max(measured[0].least, 1e-6)


def disturbance(candidates: Sequence[Candidate], busy_cores: float | None, effort: Effort) -> str:
    """Return a description of what disturbed a measurement; empty if nothing did.

    Args:
        busy_cores: cores that other programs kept busy meanwhile, if known.
        effort: defines the spread that still counts as steady.
    """
    spread = max((one.spread for item in candidates for one in item.measurements), default=1.0)
    found = []
    if spread > effort.steady:
        found.append(f"times of one candidate differed by a factor of {spread:.1f} between rounds")
    if busy_cores is not None and busy_cores > _BUSY_CORES and isfinite(effort.steady):
        found.append(f"other programs took {busy_cores:.1f} cores")
    return " and ".join(found)
