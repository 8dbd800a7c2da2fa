"""The time that a search may take: what is left of it, and what one more candidate is expected to cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from optimum_core.search.spec import CandidateSpec

#: Seconds that a first candidate is expected to take: so many, and so many for each MB of weights.
_BASE, _PER_MB = 1.5, 0.03


@dataclass(kw_only=True, slots=True)
class Budget:
    """Seconds from the moment when it is made.

    Attributes:
        seconds: how many there are.
        stated: whether the user said so; else it is what the search makes worth.
        size: bytes of the model's weights.
    """

    seconds: float
    stated: bool = False
    size: int = 0
    _start: float = field(default_factory=time.perf_counter)
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
        """A budget of the same start that ends after a part of the time."""
        return replace(self, seconds=part * self.seconds)

    def is_over(self, share: float = 1.0) -> bool:
        """Whether that share of the time has passed."""
        return self.spent > share * self.seconds

    def allows(self, spec: CandidateSpec) -> bool:
        """Whether what a spec is expected to cost is left."""
        return self.left > max(self.expected(spec), spec.cost)

    def expected(self, spec: CandidateSpec) -> float:
        """Seconds that a spec is expected to take, by what its like took before."""
        for key in _likes(spec):
            if key in self._known:
                return self._known[key]
        return max([_BASE + _PER_MB * self.size / 2**20, *self._known.values()])

    @contextmanager
    def learning(self, spec: CandidateSpec) -> Iterator[None]:
        """Remember what the block takes as the cost of specs of this kind."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            for key in _likes(spec):
                self._known[key] = max(taken, self._known.get(key, 0.0)) if len(key) == 1 else taken


def _likes(spec: CandidateSpec) -> Iterator[tuple[object, ...]]:
    """What specs of one cost share, the most alike first."""
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
