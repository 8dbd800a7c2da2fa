"""The time budget of a search: the time left, and the expected cost of one more candidate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from optimum_core.measure import Effort
from optimum_core.search.spec import CandidateSpec

#: Least and greatest seconds of a search whose caller states none; between them it gets what it seems worth.
_LEAST, _GREATEST = 15.0, 60.0
#: Expected seconds for a first candidate: a constant, and an amount for each MB of weights.
_BASE, _PER_MB = 1.5, 0.03
#: Seconds after which the time taken so far shows how busy the machine is, and the most by which that counts.
_TELLING, _MOST_BUSY = 1.0, 4.0
#: Seconds that `searching_for` sets in place of both.
_override: float | None = None


def usual_seconds(worth: float) -> float:
    """Return the budget of a search whose caller states none, from the seconds that the search seems worth."""
    return min(max(worth, _LEAST), _GREATEST) if _override is None else _override


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
    _known: dict[tuple[object, ...], float] = field(default_factory=dict)

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
    def slowdown(self) -> float:
        """Ratio of the time so far to the CPU time of this process, at least 1.0: how busy the machine is."""
        computed = time.process_time() - self._computed
        if self.spent < _TELLING:
            return 1.0
        return min(max(1.0, self.spent / max(computed, 1e-3)), _MOST_BUSY)

    def limited(self, effort: Effort) -> Effort:
        """Return an effort of which no round begins after the end of a stated budget."""
        return replace(effort, budget=min(effort.budget, self.left)) if self.stated else effort

    def allows(self, spec: CandidateSpec) -> bool:
        """Whether the time left covers the expected cost of a spec."""
        return self.left > max(self.expected(spec), spec.cost)

    def expected(self, spec: CandidateSpec) -> float:
        """Return the expected seconds for a spec, from the time that similar specs took before; for a first one, longer
        on a busy machine."""
        for key in _likes(spec):
            if key in self._known:
                return self._known[key]
        return max([self.slowdown * (_BASE + _PER_MB * self.size / 2**20), *self._known.values()])

    @contextmanager
    def learning(self, spec: CandidateSpec) -> Iterator[None]:
        """Record the duration of the block as the cost of specs of this kind."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            for key in _likes(spec):
                self._known[key] = max(taken, self._known.get(key, 0.0)) if len(key) == 1 else taken


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
    yield (way.exporter,)
