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
from optimum_core.search.quantized.recipes import (
    LARGE_GROUPS,
    LEAN,
    SMALL_CACHE,
    Recipe,
    lean,
    with_large_groups,
    with_small_cache,
)
from optimum_core.search.spec import CandidateSpec, streams_of
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
#: Least speedup for which a decoder is kept further from the original: its cache in fewer bits, or with fewer scales.
_GAIN = 1.05
_BESIDE = {SMALL_CACHE: "with the cache in floats", LARGE_GROUPS: "in smaller groups"}


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

    def of(self, ways: Sequence[Way], *, owed: bool = True) -> list[Surveyed]:
        """Return the ways that could be built, each timed, the quickest side by side.

        Args:
            owed: whether one of them is tried however short the time.
        """
        found: list[Candidate] = []
        for way in ways:
            first = owed and not found
            # Asked first: to find the route that is right, unquantized models are built and compared.
            asked = self._spec(way, next(iter(way.routes), None))
            if (why := self._why_not(asked, first=first)) is not None:
                self.log.record(Recipe(spec=asked), "skipped", why)
                continue
            spec = self._plain_spec(way, first=first)
            if spec is None:
                continue
            if (candidate := attempt(self.evaluator, self.log, Recipe(spec=spec))) is not None:
                found.append(candidate)
                found.sort(key=lambda item: item.relative_time)
                for slower in found[_FRONT:]:
                    slower.close()
        front = found[:_FRONT]
        twin = self._twin(front)
        front += [twin[0]] if twin is not None else []
        if len(front) > 1:
            with watched(
                self.context.search.emit, "measure", f"{len(front)} quantized candidates, the quickest so far"
            ):
                self.evaluator.time_relatively(front, SIDE_BY_SIDE)
        for candidate in front:
            candidate.close()
        surveyed = [_surveyed(item) for item in found]
        return surveyed if twin is None else [*surveyed, *self._worth_it(*twin, found)]

    def _why_not(self, spec: CandidateSpec, *, first: bool) -> str | None:
        """Return the reason to skip a spec, or None to try it."""
        assert spec.config is not None
        if spec.config.calibrates and self.context.data.calibration is None:
            return "it needs calibration data, and none was passed"
        if spec.way.cost > (affordable := self._affordable()):
            remedy = (
                f"{affordable:.0f} s of the budget are left"
                if self.budget.stated
                else "name its backend, or pass a budget"
            )
            return f"it takes some {spec.way.cost:.0f} s to build: {remedy}"
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

    def _twin(self, front: Sequence[Candidate]) -> tuple[Candidate, str] | None:
        """Return the quickest candidate that there is a recipe with less to compute for, built by that, and the words
        for it; None if none is left open."""
        generates = self.context.search.signature.decoder is not None
        for item in front:
            config, words = _quicker(item.spec, generates)
            if config is not None and self.budget.allows(item.spec):
                twin = attempt(self.evaluator, self.log, Recipe(spec=replace(item.spec, config=config), words=words))
                return None if twin is None else (twin, words)
        return None

    def _worth_it(self, twin: Candidate, words: str, others: Sequence[Candidate]) -> list[Surveyed]:
        """Return the twin; nothing, on the record, if it is further from the original and gains nothing by it."""
        found, best = _surveyed(twin, words), min(item.relative_time for item in others)
        if words in _BESIDE and twin.relative_time * _GAIN > best:
            why = f"{twin.relative_time / best:.2f} times the time {_BESIDE[words]}"
            self.log.record(found.recipe, "slow", why, relative_time=found.relative_time, size=found.size)
            return []
        return [found]

    def _plain_spec(self, way: Way, *, first: bool) -> CandidateSpec | None:
        """Return the way by its first route that is correct without quantization; None: all routes are wrong, or there
        is no time to try more of them."""
        for route in way.routes:
            spec = self._spec(way, route)
            if self.evaluator.is_right(way, route):
                return spec
            if self._why_not(spec, first=first) is not None:
                return None
        return None

    def _spec(self, way: Way, route: str | None) -> CandidateSpec:
        config = self.context.goal.config or QuantizeConfig.named(str(way.scheme))
        search = self.context.search
        streams = streams_of(search.objective, search.usable_cores)[-1] if way.parallel else 1
        return CandidateSpec(way=way, route=route, config=config.recipe, streams=streams)


def _surveyed(candidate: Candidate, words: str = "") -> Surveyed:
    recipe = Recipe(spec=candidate.spec, words=words)
    return Surveyed(recipe=recipe, relative_time=candidate.relative_time, size=candidate.size or 0)


def _quicker(spec: CandidateSpec, generates: bool) -> tuple[QuantizeConfig | None, str]:
    """Return the configuration with less to compute or read, and the words for it; None if the stated one leaves none
    open."""
    assert spec.config is not None
    if (config := lean(spec.config)) is not None:
        return config, LEAN
    if (config := with_small_cache(spec.config, spec.way.caches)) is not None:
        return config, SMALL_CACHE
    return with_large_groups(spec.config) if generates else None, LARGE_GROUPS
