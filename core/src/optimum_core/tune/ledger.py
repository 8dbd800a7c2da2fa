"""What a walk tried, in order, with times in milliseconds and beside the eager model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optimum_core.measure import score
from optimum_core.tune.candidates import Entry
from optimum_core.tune.job import Tuned
from optimum_core.tune.recipes import LEAN, Recipe, is_lean
from optimum_core.types import Trial


@dataclass(kw_only=True, slots=True)
class Scout:
    """A way tried by its plainest recipe: its time as a multiple of the best unquantized model's."""

    entry: Entry
    pace: float
    size: int

    @property
    def recipe(self) -> Recipe:
        """What was tried; how it differs from the plainest is in its words."""
        return Recipe(entry=self.entry, words=LEAN if is_lean(self.entry.config) else "")


@dataclass(kw_only=True, slots=True)
class Ledger:
    """The trials of a walk. Their times are of before its last race, side by side with the best unquantized model.

    Attributes:
        floats: the search among unquantized models, in whose times paces are counted.
    """

    floats: Tuned
    trials: list[Trial] = field(default_factory=list)
    _stage: int = 0

    def begin_stage(self) -> None:
        """What is recorded from now on is of another stage."""
        self._stage = len(self.trials)

    @property
    def judged(self) -> int:
        """How many of this stage have a value of the metric."""
        return sum(trial.value is not None for trial in self.trials[self._stage :])

    def record(self, recipe: Recipe, outcome: Any, reason: str, *, pace: float | None = None, **rest: Any) -> int:
        """Add a trial.

        Args:
            pace: its time as a multiple of the best unquantized model's.
            rest: further fields of `Trial`.

        Returns:
            Its number, for changes.
        """
        config = recipe.entry.config
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
        """Put a measured time in the place of an expected one."""
        self.trials[number] = replace(self.trials[number], **self._times(pace))

    def outrun(self, number: int, ratio: float) -> None:
        """A trial that keeps the promise too takes so many times the time of the chosen."""
        self.trials[number] = replace(self.trials[number], outcome="slow", reason=_behind(ratio))

    def mention(self, scouts: Sequence[Scout], pace: float) -> None:
        """Ways that were timed and not judged, since one of that pace keeps the promise."""
        told = {trial.name for trial in self.trials}
        for scout in scouts:
            if scout.recipe.name not in told:
                self.record(scout.recipe, "slow", _behind(scout.pace / pace), pace=scout.pace, size=scout.size)

    def _times(self, pace: float | None) -> dict[str, Any]:
        """What a pace is in milliseconds, and beside eager."""
        if pace is None:
            return {}
        eager = next((score(item.measurements) for item in self.floats.tried if item.entry.is_baseline), None)
        milliseconds = pace * score(self.floats.winner.measurements)
        return {"milliseconds": milliseconds, "speedup": eager / milliseconds if eager else None}


def _behind(ratio: float) -> str:
    return f"{ratio:.2f} times the time of the chosen"
