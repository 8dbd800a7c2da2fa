"""The log of a quantized search: its results in order, with times in milliseconds and relative to the eager model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optimum_core.measure import score
from optimum_core.search.context import SearchResult
from optimum_core.search.quantized.recipes import Recipe
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import RecipeResult


@dataclass(kw_only=True, slots=True)
class Surveyed:
    """A way tried with its default recipe or a near one, and its time as a multiple of the best unquantized model's."""

    recipe: Recipe
    relative_time: float
    size: int

    @property
    def spec(self) -> CandidateSpec:
        """The way, with its configuration."""
        return self.recipe.spec


@dataclass(kw_only=True, slots=True)
class SearchLog:
    """The results of a quantized search. Their times are from before its last race, beside the best unquantized model.

    Attributes:
        unquantized: the result of the unquantized search; relative times are multiples of its winner's time.
        failed_transiently: whether a recipe failed for a temporary reason.
    """

    unquantized: SearchResult
    results: list[RecipeResult] = field(default_factory=list)
    failed_transiently: bool = False
    _stage: int = 0
    _recorded: set[CandidateSpec] = field(default_factory=set)

    def begin_stage(self) -> None:
        """Begin another stage: later records belong to it."""
        self._stage = len(self.results)

    @property
    def evaluated(self) -> int:
        """The number of results of this stage that have a value of the metric."""
        return sum(result.value is not None for result in self.results[self._stage :])

    def record(
        self, recipe: Recipe, outcome: Any, reason: str, *, relative_time: float | None = None, **rest: Any
    ) -> int:
        """Add a result.

        Args:
            relative_time: its time as a multiple of the best unquantized model's.
            rest: further fields of `RecipeResult`.

        Returns:
            The result's number, for later changes.
        """
        self._recorded.add(recipe.spec)
        config = recipe.spec.config
        result = RecipeResult(
            name=recipe.name,
            config=config.to_dict() if config else {},
            outcome=outcome,
            reason=reason,
            **self._times(relative_time),
            **rest,
        )
        self.results.append(result)
        return len(self.results) - 1

    def time(self, number: int, relative_time: float) -> None:
        """Replace a result's expected time by a measured one."""
        self.results[number] = replace(self.results[number], **self._times(relative_time))

    def outrun(self, number: int, ratio: float) -> None:
        """Record that a recipe keeps the promise too, but takes `ratio` times the time of the chosen one."""
        self.results[number] = replace(self.results[number], outcome="slow", reason=_behind(ratio))

    def mention(self, surveyed: Sequence[Surveyed], relative_time: float) -> None:
        """Record ways that were timed but not evaluated, since a recipe of that relative time keeps the promise."""
        for item in surveyed:
            if item.spec not in self._recorded:
                why = _behind(item.relative_time / relative_time)
                self.record(item.recipe, "slow", why, relative_time=item.relative_time, size=item.size)

    def _times(self, relative_time: float | None) -> dict[str, Any]:
        """Return a relative time in milliseconds, and as a speedup over the eager model."""
        if relative_time is None:
            return {}
        eager = next((score(item.measurements) for item in self.unquantized.tried if item.spec.is_baseline), None)
        milliseconds = relative_time * score(self.unquantized.winner.measurements)
        return {"milliseconds": milliseconds, "speedup": eager / milliseconds if eager else None}


def _behind(ratio: float) -> str:
    return f"{ratio:.2f} times the time of the chosen"
