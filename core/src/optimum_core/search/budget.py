"""The time budget of a search: the time left, and the expected cost of one more candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from optimum_core.measure import Effort
from optimum_core.search.spec import CandidateSpec

#: Least and greatest seconds of a search whose caller states none; between them it gets what it seems worth.
_LEAST, _GREATEST = 15.0, 60.0
#: Expected seconds for a first candidate: a constant, and an amount for each MB of weights.
_BASE, _PER_MB = 1.5, 0.03
#: Least expected seconds for an exporter's further route, which may be of another kind: tracing the smallest BERT takes
#: half a second, `torch.export` of it five to nine.
_ROUTE = 5.0
#: Seconds after which the time taken so far shows how busy the machine is, and the most by which that counts.
_TELLING, _MOST_BUSY = 1.0, 8.0
#: Least seconds, whatever budget was stated, in which something is built, and something right of a named target found.
LEAST_TO_BUILD = 30.0
#: Seconds that `searching_for` sets in place of both.
_override: float | None = None


def usual_seconds(worth: float) -> float:
    """Return the budget of a search whose caller states none, from the seconds that the search seems worth."""
    return min(max(worth, _LEAST), _GREATEST) if _override is None else _override


def is_longer(stated: float | None, ended_at: float | None) -> bool:
    """Whether a search with this budget, if any is stated, has the time for what an earlier one left untried.

    Args:
        ended_at: `Report.ended_at` of that.
    """
    return ended_at is not None and (usual_seconds(0.0) if stated is None else stated) > ended_at


@contextmanager
def searching_for(seconds: float | None) -> Iterator[None]:
    """Override the budget of searches whose callers state none while the block runs: for tests that do not depend on
    the candidates that compete.

    Args:
        seconds: None: the usual budget, as without this block.
    """
    global _override
    before, _override = _override, seconds
    try:
        yield
    finally:
        _override = before


@dataclass(kw_only=True, slots=True)
class Budget:
    """A time budget that starts when it is created.

    Attributes:
        seconds: its length.
        stated: whether the user set it; otherwise the search derives it from the model's speed.
        size: bytes of the model's weights.
    """

    seconds: float
    stated: bool = False
    size: int = 0
    _start: float = field(default_factory=time.perf_counter)
    _computed: float = field(default_factory=time.process_time)
    _known: dict[tuple[object, ...], _Cost] = field(default_factory=dict)
    _exporters: set[str | None] = field(default_factory=set)

    @classmethod
    def of(cls, stated: float | None) -> Self:
        """Return the budget that a caller stated, or the greatest usual one; it starts now."""
        seconds = usual_seconds(math.inf) if stated is None else stated
        return cls(seconds=seconds, stated=stated is not None)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end; 0.0 after it."""
        return max(0.0, self.seconds - self.spent)

    def share(self, part: float) -> Budget:
        """Return a budget with the same start that ends after this part of the time."""
        return replace(self, seconds=part * self.seconds)

    def is_over(self, share: float = 1.0) -> bool:
        """Whether that share of the time has passed."""
        return self.spent > share * self.seconds

    @property
    def is_spent(self) -> bool:
        """Whether the user's time is over, so that nothing more than a result is owed."""
        return self.stated and self.is_over()

    @property
    def is_exhausted(self) -> bool:
        """Whether the user's time is over even where nothing was built, or nothing right of a named target found."""
        return self.is_spent and self.spent > LEAST_TO_BUILD

    @property
    def slowdown(self) -> float:
        """Ratio of the time so far to the CPU time of this process, at least 1.0: how busy the machine is."""
        computed = time.process_time() - self._computed
        if self.spent < _TELLING:
            return 1.0
        return min(max(1.0, self.spent / max(computed, 1e-3)), _MOST_BUSY)

    def limited(self, effort: Effort) -> Effort:
        """Return an effort of which no round begins after the end of a stated budget."""
        return replace(effort, budget=min(effort.budget, self.left)) if self.stated else effort

    def needed_beside(self, seconds: float) -> float:
        """Return the seconds that a budget must exceed to cover so many now, beside a first candidate."""
        return self.spent + seconds + self._first

    def allows(self, spec: CandidateSpec) -> bool:
        """Whether the time left covers the expected cost of a spec."""
        return self.seconds > self.needed(spec)

    def needed(self, spec: CandidateSpec) -> float:
        """Return the seconds that a budget must exceed to cover a spec now."""
        return self.spent + max(self.expected(spec), spec.cost)

    def allows_in_least(self, spec: CandidateSpec) -> bool:
        """Whether the least time to build covers the expected cost of a spec, whatever budget there is."""
        return self.spent + max(self.expected(spec), spec.cost) < LEAST_TO_BUILD

    def expected(self, spec: CandidateSpec) -> float:
        """Return the expected seconds for a spec, from the time that similar specs took before, on a machine that is as
        busy as it was so far."""
        known = next((self._known[key] for key in _likes(spec) if key in self._known), None)
        if known is not None:
            return self._now(known)
        usual = self._first
        if spec.way.exporter in self._exporters:
            usual = max(usual, self.slowdown * _ROUTE)
        return max([usual, *map(self._now, self._known.values())])

    @property
    def _first(self) -> float:
        """Expected seconds for a first candidate."""
        return self.slowdown * (_BASE + _PER_MB * self.size / 2**20)

    def _now(self, cost: _Cost) -> float:
        """Return the seconds that a step of such a cost would take now."""
        return max(cost.seconds, self.slowdown * min(cost.seconds, cost.computed))

    @contextmanager
    def learning(self, spec: CandidateSpec) -> Iterator[None]:
        """Record the duration of the block as the cost of specs of this kind."""
        start, computed = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            taken = _Cost(time.perf_counter() - start, time.process_time() - computed)
            for key in _likes(spec):
                self._known[key] = taken
            if not spec.way.is_eager:
                self._exporters.add(spec.way.exporter)


class _Cost(NamedTuple):
    """Seconds that a step took, and those of them in which this process computed."""

    seconds: float
    computed: float


def _likes(spec: CandidateSpec) -> Iterator[tuple[object, ...]]:
    """Yield keys that specs of similar cost share, the most specific first."""
    way, config = spec.way, spec.config
    if way.is_eager:
        yield "eager", spec.level
        return
    if config is not None:
        yield way.quantizer, way.scheme, config.calibration, config.algorithm, config.accuracy_control, way.backend
        yield way.quantizer, way.scheme
        return
    yield *spec.export_key, way.backend
    yield spec.export_key
