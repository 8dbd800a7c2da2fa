"""Every way that quantizes, once, by its plainest recipe: how fast it is, and how small."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from optimum_core.errors import OptimumError, OptionError, PromiseError
from optimum_core.measure import Effort
from optimum_core.measure.stopwatch import first_line, watched
from optimum_core.plan import Way
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.judging import Court, WalkJob
from optimum_core.tune.ledger import Ledger, Scout
from optimum_core.tune.recipes import LEAN, Recipe, lean
from optimum_core.types import QuantizeConfig

#: Seconds after which no further recipe is begun, where no budget is stated.
BUDGET = 900.0
SIDE_BY_SIDE = Effort(rounds=5, seconds=0.12, hopeless=float("inf"))
#: Seconds that one way may cost unasked, among those of several backends.
_UNASKED = 20.0
#: Share of the time in which every way is tried once; the rest is for judging.
_SHARE = 0.5
#: Ways that were quickest when each was tried by itself are timed side by side: that order counts.
_FRONT = 4
_NO_ROUTE = "none"


@dataclass(kw_only=True, slots=True)
class Clock:
    """The time of a walk, from when it is made.

    Attributes:
        budget: seconds, where its user stated them.
    """

    budget: float | None = None
    _start: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def left(self) -> float:
        """Seconds until the end; 0.0 after it."""
        return max(0.0, self._whole - self.spent)

    def is_over(self, share: float = 1.0) -> bool:
        """Whether that share of the time has passed."""
        return self.spent > share * self._whole

    @property
    def _whole(self) -> float:
        return BUDGET if self.budget is None else self.budget


def attempt(
    court: Court,
    ledger: Ledger,
    recipe: Recipe,
    *,
    layers: Callable[[], Sequence[str]] = tuple,
    pace: float | None = None,
) -> Candidate | None:
    """The candidate, open; None where it cannot be built, which is recorded.

    Args:
        layers: the model's, those that hurt most first; asked for where the recipe leaves some of them out.
        pace: its time as a multiple of the best unquantized model's, where that is known; else it is measured.
    """
    start = time.perf_counter()
    try:
        entry = recipe.without(layers()) if recipe.left_out else recipe.entry
        return court.built(entry, pace=pace)
    except OptimumError as error:
        outcome = _outcome(error, recipe)
        ledger.record(recipe, outcome, first_line(error), seconds=time.perf_counter() - start)
        return None


def _outcome(error: OptimumError, recipe: Recipe) -> str:
    if isinstance(error, PromiseError):
        return "broken"
    # A backend that has no such method refuses it: what nobody asked for is then not a failure.
    refused = isinstance(error, OptionError) and recipe.words and not recipe.left_out
    return "skipped" if refused else "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scouting:
    """Tries ways; what was skipped and what failed is in the ledger."""

    job: WalkJob
    court: Court
    ledger: Ledger
    clock: Clock

    def scout(self, ways: Sequence[Way]) -> list[Scout]:
        """Those that could be built, each timed; the quickest side by side."""
        found: list[Candidate] = []
        for way in ways:
            entry = self._plain_entry(way)
            if entry is None:
                continue
            recipe = Recipe(entry=entry)
            if (why := self._why_not(entry, first=not found)) is not None:
                self.ledger.record(recipe, "skipped", why)
            elif (candidate := attempt(self.court, self.ledger, recipe)) is not None:
                found.append(candidate)
                found.sort(key=lambda item: item.pace)
                for slower in found[_FRONT:]:
                    slower.close()
        front = found[:_FRONT]
        front += self._lean_twins(front)
        if len(front) > 1:
            with watched(self.job.job.emit, "measure", f"{len(front)} quantized candidates, the quickest so far"):
                self.court.pace(front, SIDE_BY_SIDE)
        for candidate in front:
            candidate.close()
        found += [item for item in front if item not in found]
        return [Scout(entry=item.entry, pace=item.pace, size=item.size or 0) for item in found]

    def _why_not(self, entry: Entry, *, first: bool) -> str | None:
        """Why an entry is not tried, where it is not."""
        assert entry.config is not None
        if entry.config.calibrates and self.job.evidence.calibration is None:
            return "it needs calibration data, and none was passed"
        if entry.way.cost > self._affordable():
            return f"it takes some {entry.way.cost:.0f} s to build: name its backend, or pass a budget"
        return "the time for trying every way is over" if not first and self.clock.is_over(_SHARE) else None

    def _affordable(self) -> float:
        """Seconds that one way may cost: what is left of a stated budget, and no limit where one backend was named."""
        if self.clock.budget is not None:
            return self.clock.left()
        return float("inf") if len({way.backend for way in self.job.ways}) == 1 else _UNASKED

    def _lean_twins(self, front: Sequence[Candidate]) -> list[Candidate]:
        """The quickest static candidate once more, by a recipe with less to compute, where its user left that open."""
        for item in front:
            config = lean(item.entry.config) if item.entry.config is not None else None
            if config is not None:
                recipe = Recipe(entry=replace(item.entry, config=config), words=LEAN)
                twin = attempt(self.court, self.ledger, recipe)
                return [twin] if twin is not None else []
        return []

    def _plain_entry(self, way: Way) -> Entry | None:
        """The way by its first route that is right without quantization; None: all are wrong."""
        route = next((route for route in way.routes if self.court.is_right(way, route)), _NO_ROUTE)
        if route is _NO_ROUTE:
            return None
        config = self.job.wish.config or QuantizeConfig.named(str(way.scheme))
        return Entry(way=way, route=route, config=config.recipe)
