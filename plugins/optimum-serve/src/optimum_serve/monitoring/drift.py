"""Drift: distributions of inputs and scores in the latest window, beside those of the first window or a stored one.

The statistic is the population stability index, the sum over bins of (p - q) ln(p / q), where p and q are the shares of
a bin now and then. By the usual rule of thumb, up to 0.1 is no change, and above 0.25 a large one (N. Siddiqi, Credit
Risk Scorecards, 2006). Half a count is added to every bin, so that an empty one has a share.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log, nan
from typing import Any

#: By quantity, the upper bounds of its bins; a last bin has what is above.
BINS: Mapping[str, tuple[float, ...]] = {
    "length": (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    "unknown": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "score": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    "class": tuple(range(31)),
}
#: Values below which an index would be noise.
LEAST = 200
_SLOTS = 6


def stability_index(then: Sequence[float], now: Sequence[float]) -> float:
    """Return the population stability index of two histograms with the same bins.

    >>> round(stability_index([50, 50], [100, 100]), 4), stability_index([90, 10], [10, 90]) > 1
    (0.0001, True)
    """
    total_then, total_now = (sum(counts) + len(counts) / 2 for counts in (then, now))
    shares = [((a + 0.5) / total_then, (b + 0.5) / total_now) for a, b in zip(then, now, strict=True)]
    return sum((q - p) * log(q / p) for p, q in shares)


class Distribution:
    """Counts of one quantity: of the baseline, and of the latest window.

    Args:
        window: its seconds, and those of the baseline, unless that is given.
        baseline: counts of an earlier run.
    """

    def __init__(
        self,
        bounds: Sequence[float],
        window: float,
        baseline: Sequence[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds, self._window, self._clock = bounds, window, clock
        self._begin = clock()
        self._is_learning = baseline is None
        self.baseline = list(baseline) if baseline is not None else [0] * (len(bounds) + 1)
        self._slots: deque[tuple[float, list[int]]] = deque()

    def add(self, values: Iterable[float]) -> None:
        """Take note of values."""
        now, bins = self._clock(), [bisect_left(self._bounds, value) for value in values]
        self._is_learning = self._is_learning and now - self._begin < self._window
        if not self._slots or now - self._slots[-1][0] >= self._window / _SLOTS:
            self._slots.append((now, [0] * len(self.baseline)))
        for place in bins:
            self._slots[-1][1][place] += 1
            self.baseline[place] += self._is_learning

    @property
    def is_learned(self) -> bool:
        """Whether the baseline is complete, and holds enough."""
        return not self._is_learning and sum(self.baseline) >= LEAST

    @property
    def index(self) -> float:
        """The index of the latest window against the baseline; NaN: too little came in one of them."""
        oldest = self._clock() - self._window
        while self._slots and self._slots[0][0] < oldest:
            self._slots.popleft()
        now = [sum(counts) for counts in zip(*(counts for _, counts in self._slots), strict=True)]
        if not self.is_learned or sum(now) < LEAST:
            return nan
        return stability_index(self.baseline, now)


class Drift:
    """The distributions of one model. Thread-safe.

    Args:
        window: seconds.
        baseline: by quantity, as `baseline` returns it; empty: learned in the first window.
    """

    def __init__(
        self, window: float, baseline: Mapping[str, Sequence[int]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._all = {name: Distribution(bounds, window, baseline.get(name), clock) for name, bounds in BINS.items()}

    def add(self, name: str, values: Iterable[float]) -> None:
        """Take note of values of a quantity."""
        with self._lock:
            self._all[name].add(values)

    def index(self, name: str) -> float:
        """Return the index of a quantity; NaN: it is not known."""
        with self._lock:
            return self._all[name].index

    def baseline(self) -> dict[str, list[int]]:
        """Return the counts of the baselines that are complete."""
        with self._lock:
            return {name: one.baseline for name, one in self._all.items() if one.is_learned}


def read_baselines(text: str) -> dict[str, dict[str, list[int]]]:
    """Return baselines by model and quantity, from the text of a file.

    Raises:
        ValueError: it is no such file.
    """
    tree: Any = json.loads(text)
    found = tree["models"] if isinstance(tree, dict) and tree.get("schema_version") == 1 else None
    if not isinstance(found, dict):
        raise ValueError("it is no file of baselines of schema_version 1")
    for model, quantities in found.items():
        for name, counts in quantities.items():
            right = name in BINS and len(counts) == len(BINS[name]) + 1
            if not right or not all(type(count) is int and count >= 0 for count in counts):
                raise ValueError(f"{name!r} of model {model!r} does not have the bins of this version")
    return found


def write_baselines(baselines: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    """Return the text of a file of baselines."""
    return json.dumps({"schema_version": 1, "models": baselines}, indent=1)
