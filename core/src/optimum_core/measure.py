"""How fast candidates are: interleaved rounds in alternating order, medians, and no other runtime busy beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from optimum_core.types import Measurement

#: Runtimes let their threads spin for a while after a call; nobody is measured while another's still do.
SETTLE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long to measure: rounds, seconds of one candidate at one shape in a round, and when to give up on one.

    Attributes:
        hopeless: a candidate this many times slower than the best after a round is not measured further.
        budget: seconds after which no further round begins; every candidate has one.
    """

    rounds: int = 5
    seconds: float = 0.15
    hopeless: float = 1.6
    budget: float = 60.0


@dataclass(kw_only=True, slots=True)
class _Track:
    calls: Sequence[Callable[[], object]]
    times: list[list[float]] = field(default_factory=list)


def measure(
    candidates: Mapping[str, Sequence[Callable[[], object]]], shapes: Sequence[str], effort: Effort | None = None
) -> dict[str, tuple[Measurement, ...]]:
    """Time every candidate at every shape.

    Args:
        candidates: per name one call for each of `shapes`.
        shapes: how to speak of the workload's shapes.

    Returns:
        Per candidate one measurement a shape, in milliseconds; fewer runs for those that were dropped early.
    """
    effort = effort or Effort()
    tracks = {name: _Track(calls=calls, times=[[] for _ in shapes]) for name, calls in candidates.items()}
    running = list(tracks)
    end = time.perf_counter() + effort.budget
    for turn in range(effort.rounds):
        for name in running if turn % 2 == 0 else reversed(running):
            _round(tracks[name], effort.seconds)
        running = _worth_going_on(tracks, running, effort.hopeless)
        if time.perf_counter() > end:
            break
    return {
        name: tuple(_summary(shape, times) for shape, times in zip(shapes, track.times, strict=True))
        for name, track in tracks.items()
    }


def score(measurements: Sequence[Measurement]) -> float:
    """One figure for a workload: the geometric mean of the medians, in milliseconds; infinite when not measured."""
    if not measurements:
        return float("inf")
    return float(np.exp(np.mean([np.log(max(item.median, 1e-6)) for item in measurements])))


def _round(track: _Track, seconds: float) -> None:
    time.sleep(SETTLE_SECONDS)
    for call, times in zip(track.calls, track.times, strict=True):
        if not times or times[-1] < seconds:
            call()  # warms caches, and buffers at this shape; a slow call is hardly changed by that
        spent = 0.0
        while spent < seconds:
            start = time.perf_counter()
            call()
            taken = time.perf_counter() - start
            times.append(taken)
            spent += taken


def _worth_going_on(tracks: Mapping[str, _Track], running: Sequence[str], hopeless: float) -> list[str]:
    """Those whose total over the shapes is not clearly behind the best's."""
    scores = {name: float(np.mean([np.log(np.median(times)) for times in tracks[name].times])) for name in running}
    best = min(scores.values())
    return [name for name in running if scores[name] <= best + np.log(hopeless)]


def _summary(shape: str, times: Sequence[float]) -> Measurement:
    milliseconds = np.asarray(times) * 1e3
    return Measurement(
        shape=shape,
        median=float(np.median(milliseconds)),
        p95=float(np.percentile(milliseconds, 95)),
        runs=len(times),
    )
