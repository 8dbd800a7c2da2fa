"""The standing of a search: whether the candidates tried so far give a result, and what is owed beyond the budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optimum_core.search.budget import Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.race import Race
from optimum_core.search.spec import CandidateSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The standing of a search.

    Attributes:
        tried: the candidates so far; the search adds to them and removes some.
    """

    race: Race
    budget: Budget
    tried: list[Candidate]

    def right(self, besides: Candidate | None = None) -> list[Candidate]:
        """Return the candidates that could be returned now: they agree with eager and may win.

        Args:
            besides: one whose trial goes on.
        """
        return [item for item in self.tried if item is not besides and item.is_correct and self.race.may_win(item)]

    def owes_nothing(self, running: Candidate | None = None) -> bool:
        """Whether a stated budget is over and there is a result, or something was built and compared, or far behind; if
        only one of these is so, the time must have been enough for the other."""
        has_result = any(item.is_general for item in self.right(running))
        has_built = any(item.has_ended and not item.spec.way.is_eager for item in self.tried if item is not running)
        if has_result and has_built:
            return self.budget.is_spent
        return self.budget.is_exhausted and (has_result or has_built)

    def wants(self, spec: CandidateSpec, running: Candidate | None = None) -> bool:
        """Whether a spec is tried even without budget: nothing built is right yet, or it improves on the best.
        After the end of the user's budget, where eager may be returned, only the first that is built.

        Args:
            running: its own trial, if that has begun.
        """
        if spec.is_baseline:
            return True
        right = self.right(running)
        built = [item for item in right if item.is_general and not item.spec.way.is_eager]
        wanting = not right if spec.way.is_eager else not (built or self.owes_nothing(running))
        return wanting or (spec.prepared and self._twin_leads(spec, running))

    def _twin_leads(self, spec: CandidateSpec, running: Candidate | None) -> bool:
        """Whether the unprepared twin is the best so far: preparing it costs one load, and often wins."""
        open_ones = [item for item in self.tried if item is not running and item.session and self.race.may_win(item)]
        leader = min(open_ones, key=lambda item: item.relative_time, default=None)
        return leader is not None and leader.spec == replace(spec, prepared=False)

    def is_worth_preparing(self, spec: CandidateSpec) -> bool:
        """Whether the unprepared twin is among the best, or was not tried."""
        plain = replace(spec, prepared=False)
        return all(item.session is not None for item in self.tried if item.spec == plain)

    def nothing_built_is_wanted(self) -> bool:
        """Whether something that was built is right, or too slow to win; or nothing was built that may win."""
        built = [item for item in self.tried if not item.spec.way.is_eager and self.race.may_win(item)]
        return not built or any(item.is_correct or item.far_behind for item in built)

    @property
    def ended_before_anything_was_right(self) -> bool:
        """Whether a stated budget ended before anything was built that agrees with eager."""
        return not any(item.is_correct or item.far_behind for item in self.built) and self.owes_nothing()

    @property
    def built(self) -> list[Candidate]:
        """Those that were built, and whose trial has ended."""
        return [item for item in self.tried if item.has_ended and not item.spec.way.is_eager]
