"""The log of a quantized search: its trials in order, with times in milliseconds and relative to the eager model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optimum_core.measure import score
from optimum_core.search.context import SearchResult
from optimum_core.search.quantized.recipes import LEAN, Recipe, is_lean
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Trial


@dataclass(kw_only=True, slots=True)
class Surveyed:
    """A way tried with its default recipe, and its time as a multiple of the best unquantized model's."""

    spec: CandidateSpec
    pace: float
    size: int

    @property
    def recipe(self) -> Recipe:
        """The recipe that was tried; its words tell how it differs from the default one."""
        return Recipe(spec=self.spec, words=LEAN if is_lean(self.spec.config) else "")


@dataclass(kw_only=True, slots=True)
class SearchLog:
    """The trials of a quantized search. Their times are from before its last race, beside the best unquantized model.

    Attributes:
        unquantized: the result of the unquantized search; paces are multiples of its winner's time.
        failed_transiently: whether a trial failed for a temporary reason.
    """

    unquantized: SearchResult
    trials: list[Trial] = field(default_factory=list)
    failed_transiently: bool = False
    _stage: int = 0
    _recorded: set[CandidateSpec] = field(default_factory=set)

    def begin_stage(self) -> None:
        """Begin another stage: later records belong to it."""
        self._stage = len(self.trials)

    @property
    def judged(self) -> int:
        """The number of trials of this stage that have a value of the metric."""
        return sum(trial.value is not None for trial in self.trials[self._stage :])

    def record(self, recipe: Recipe, outcome: Any, reason: str, *, pace: float | None = None, **rest: Any) -> int:
        """Add a trial.

        Args:
            pace: its time as a multiple of the best unquantized model's.
            rest: further fields of `Trial`.

        Returns:
            The trial's number, for later changes.
        """
        self._recorded.add(recipe.spec)
        config = recipe.spec.config
        trial = Trial(
            name=recipe.name,
            config=config.to_dict() if config else {},
            outcome=outcome,
            reason=reason,
            **self._times(pace),
            **rest,
        )
        self.trials.append(trial)
        return len(self.trials) - 1

    def time(self, number: int, pace: float) -> None:
        """Replace a trial's expected time by a measured one."""
        self.trials[number] = replace(self.trials[number], **self._times(pace))

    def outrun(self, number: int, ratio: float) -> None:
        """Record that a trial keeps the promise too, but takes `ratio` times the time of the chosen one."""
        self.trials[number] = replace(self.trials[number], outcome="slow", reason=_behind(ratio))

    def mention(self, surveyed: Sequence[Surveyed], pace: float) -> None:
        """Record ways that were timed but not evaluated, since a recipe of that pace keeps the promise."""
        for item in surveyed:
            if item.spec not in self._recorded:
                self.record(item.recipe, "slow", _behind(item.pace / pace), pace=item.pace, size=item.size)

    def _times(self, pace: float | None) -> dict[str, Any]:
        """Return a pace in milliseconds, and as a speedup over the eager model."""
        if pace is None:
            return {}
        eager = next((score(item.measurements) for item in self.unquantized.tried if item.spec.is_baseline), None)
        milliseconds = pace * score(self.unquantized.winner.measurements)
        return {"milliseconds": milliseconds, "speedup": eager / milliseconds if eager else None}


def _behind(ratio: float) -> str:
    return f"{ratio:.2f} times the time of the chosen"
