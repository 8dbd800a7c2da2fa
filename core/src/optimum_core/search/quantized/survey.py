"""The survey: every way that quantizes is tried once, with its default recipe, for its speed and size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from optimum_core.errors import OptimumError, OptionError, PromiseError
from optimum_core.measure import Effort
from optimum_core.measure.stopwatch import watched
from optimum_core.plan import Way
from optimum_core.search.budget import Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.quantized.evaluator import Evaluator, QuantizationContext
from optimum_core.search.quantized.log import SearchLog, Surveyed
from optimum_core.search.quantized.recipes import LEAN, Recipe, lean
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import failing
from optimum_core.types import QuantizeConfig

#: Seconds after which no further recipe is begun, if no budget is stated.
SECONDS = 900.0
SIDE_BY_SIDE = Effort(rounds=5, seconds=0.12, hopeless=float("inf"))
#: Most seconds for one way, if no backend was named and several have ways.
_UNASKED = 20.0
#: Share of the time for trying every way once; the rest is for evaluation.
_SHARE = 0.5
#: Number of ways, the quickest of those tried one by one, that are timed side by side: that order counts.
_FRONT = 4
_NO_ROUTE = "none"


def attempt(
    evaluator: Evaluator,
    log: SearchLog,
    recipe: Recipe,
    *,
    layers: Callable[[], Sequence[str]] = tuple,
    relative_time: float | None = None,
) -> Candidate | None:
    """Return the candidate, open; None if it cannot be built, which is recorded.

    Args:
        layers: returns the model's layers, the most sensitive first; called if the recipe leaves some of them out.
        relative_time: its time as a multiple of the best unquantized model's, if known; else it is measured.
    """
    start = time.perf_counter()
    search = evaluator.context.search
    candidate = Candidate(spec=recipe.spec, signature=search.signature)
    with failing(candidate):
        if recipe.left_out:
            candidate.spec = recipe.without(layers())
        with search.budget.learning(candidate.spec):
            evaluator.build(candidate, relative_time=relative_time)
    if candidate.error is None:
        return candidate
    outcome = _outcome(candidate.error, recipe)
    log.record(recipe, outcome, candidate.problem, seconds=time.perf_counter() - start)
    log.failed_transiently |= candidate.failed_transiently
    return None


def _outcome(error: OptimumError, recipe: Recipe) -> str:
    if isinstance(error, PromiseError):
        return "broken"
    # A backend without the method refuses it; for a method that the user did not request, that is no failure.
    refused = isinstance(error, OptionError) and recipe.words and not recipe.left_out
    return "skipped" if refused else "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The first trial of every way; skipped and failed ways are in the log."""

    context: QuantizationContext
    evaluator: Evaluator
    log: SearchLog
    budget: Budget

    def of(self, ways: Sequence[Way]) -> list[Surveyed]:
        """Return the ways that could be built, each timed, the quickest side by side."""
        found: list[Candidate] = []
        for way in ways:
            spec = self._plain_spec(way)
            if spec is None:
                continue
            recipe = Recipe(spec=spec)
            if (why := self._why_not(spec, first=not found)) is not None:
                self.log.record(recipe, "skipped", why)
            elif (candidate := attempt(self.evaluator, self.log, recipe)) is not None:
                found.append(candidate)
                found.sort(key=lambda item: item.relative_time)
                for slower in found[_FRONT:]:
                    slower.close()
        front = found[:_FRONT]
        front += self._lean_twins(front)
        if len(front) > 1:
            with watched(
                self.context.search.emit, "measure", f"{len(front)} quantized candidates, the quickest so far"
            ):
                self.evaluator.time_relatively(front, SIDE_BY_SIDE)
        for candidate in front:
            candidate.close()
        found += [item for item in front if item not in found]
        return [Surveyed(spec=item.spec, relative_time=item.relative_time, size=item.size or 0) for item in found]

    def _why_not(self, spec: CandidateSpec, *, first: bool) -> str | None:
        """Return the reason to skip a spec, or None to try it."""
        assert spec.config is not None
        if spec.config.calibrates and self.context.data.calibration is None:
            return "it needs calibration data, and none was passed"
        if spec.way.cost > self._affordable():
            return f"it takes some {spec.way.cost:.0f} s to build: name its backend, or pass a budget"
        if first:
            return None
        if self.budget.is_over(_SHARE):
            return "the time for trying every way is over"
        return None if self.budget.allows(spec) else "what it is expected to take is not left of the budget"

    def _affordable(self) -> float:
        """Return the most seconds for one way: the rest of a stated budget, or no limit if one backend was named."""
        if self.budget.stated:
            return self.budget.left
        return float("inf") if len({way.backend for way in self.context.ways}) == 1 else _UNASKED

    def _lean_twins(self, front: Sequence[Candidate]) -> list[Candidate]:
        """Return the quickest static candidate again, with a recipe with less to compute, if that was left open."""
        for item in front:
            config = lean(item.spec.config) if item.spec.config is not None else None
            if config is not None and self.budget.allows(item.spec):
                recipe = Recipe(spec=replace(item.spec, config=config), words=LEAN)
                twin = attempt(self.evaluator, self.log, recipe)
                return [twin] if twin is not None else []
        return []

    def _plain_spec(self, way: Way) -> CandidateSpec | None:
        """Return the way by its first route that is correct without quantization; None: all routes are wrong."""
        route = next((route for route in way.routes if self.evaluator.is_right(way, route)), _NO_ROUTE)
        if route is _NO_ROUTE:
            return None
        config = self.context.goal.config or QuantizeConfig.named(str(way.scheme))
        return CandidateSpec(way=way, route=route, config=config.recipe)
