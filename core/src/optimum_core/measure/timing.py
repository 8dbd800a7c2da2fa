"""Timing of candidates: interleaved rounds in alternating order, medians, and no other runtime busy beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from optimum_core.generation.generator_workload import Generated
from optimum_core.measure.energy import Energy, energy_meter
from optimum_core.measure.workload import WorkShape
from optimum_core.types import Measurement

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """The length of a measurement, and the limits at which a candidate is given up.

    Attributes:
        rounds: turns in which every candidate is timed at every shape.
        seconds: time of one candidate at one shape in a round; `calls` ends it sooner for quick ones.
        hopeless: a candidate this many times slower than the best after the first round is not measured further; the
            margin narrows with every round.
        budget: seconds after which no further round begins; every candidate gets at least one.
        steady: medians of one candidate's rounds that differ by a greater factor show that something disturbed them.
        slow: the first call at a shape counts, instead of warming up, if it takes more seconds than this: then warming
            up hardly matters, to the shortest time of several rounds.
        settle: seconds of pause before each candidate: runtimes let their threads spin for a while after a call, which
            disturbs the next.
    """

    rounds: int = 5
    seconds: float = 0.15
    calls: int = 60
    hopeless: float = 1.6
    budget: float = 60.0
    steady: float = 1.5
    slow: float = float("inf")
    settle: float = 0.02


_override: Effort | None = None
_clock: Clock = time.perf_counter


@contextmanager
def measuring(effort: Effort | None, *, clock: Clock = time.perf_counter) -> Iterator[None]:
    """Override the effort of all measurements while the block runs: for tests that need no precise figures.

    Args:
        effort: None: that of each measurement, as without this block.
        clock: returns the seconds by which calls are timed, such as those that a fake backend states.
    """
    global _override, _clock
    before, (_override, _clock) = (_override, _clock), (effort, clock)
    try:
        yield
    finally:
        _override, _clock = before


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A candidate to time: one call for each shape, and the number of calls that run side by side."""

    calls: Sequence[Callable[[], object]]
    streams: int = 1


@dataclass(kw_only=True, slots=True)
class _Track:
    """The seconds of every call, by shape, then by round; and by shape the seconds until a first token, and energy."""

    contestant: Contestant
    times: list[list[list[float]]] = field(default_factory=list)
    firsts: list[list[float]] = field(default_factory=list)
    energies: list[Energy] = field(default_factory=list)


def measure(
    candidates: Mapping[str, Contestant], shapes: Sequence[WorkShape], effort: Effort | None = None
) -> dict[str, tuple[Measurement, ...]]:
    """Time every candidate at every shape.

    Args:
        candidates: by name; each has one call for each of `shapes`.
        shapes: the workload.

    Returns:
        For each candidate one measurement per shape, in milliseconds; with fewer runs if it was dropped early.
    """
    effort, meter = _override or effort or Effort(), energy_meter()
    tracks = {
        name: _Track(
            contestant=item,
            times=[[] for _ in shapes],
            firsts=[[] for _ in shapes],
            energies=[Energy(meter=meter, clock=_clock) for _ in shapes],
        )
        for name, item in candidates.items()
    }
    running = list(tracks)
    end = time.perf_counter() + effort.budget
    for turn in range(effort.rounds):
        for name in running if turn % 2 == 0 else reversed(running):
            _round(tracks[name], effort)
        running = _worth_going_on(tracks, running, shapes, 1 + (effort.hopeless - 1) / (turn + 1))
        if time.perf_counter() > end:
            break
    return {name: _summaries(track, shapes) for name, track in tracks.items()}


def score(measurements: Sequence[Measurement]) -> float:
    """Return one figure for a workload, in milliseconds; infinite if not measured.

    It is the geometric mean of the medians, so that long calls do not hide short ones; where the calls were counted, it
    is the mean time of a call.
    """
    return _mean(measurements, [item.median for item in measurements])


def energy_score(measurements: Sequence[Measurement]) -> float:
    """Return one figure for a workload as `score` does, in joules; infinite if energy was not measured."""
    joules = [item.joules for item in measurements if item.joules is not None]
    return _mean(measurements, joules) if len(joules) == len(measurements) else float("inf")


def least_score(measurements: Sequence[Measurement]) -> float:
    """Return the figure of `score` by the shortest times, for runs too short for medians."""
    return _mean(measurements, [item.least for item in measurements])


def _mean(measurements: Sequence[Measurement], values: Sequence[float]) -> float:
    if not measurements:
        return float("inf")
    above_zero = np.maximum(values, 1e-6)  # a coarse clock may see no time pass
    counts = [item.calls for item in measurements if item.calls]
    if len(counts) == len(measurements):
        return float(np.average(above_zero, weights=counts))
    return float(np.exp(np.mean(np.log(above_zero))))


def _round(track: _Track, effort: Effort) -> None:
    time.sleep(effort.settle)
    streams = track.contestant.streams
    with ThreadPoolExecutor(streams) as pool:
        shapes = zip(track.contestant.calls, track.times, track.firsts, track.energies, strict=True)
        for call, rounds, firsts, energy in shapes:
            once = call if streams == 1 else partial(_together, pool, call, streams)
            with energy.measured():
                made = _at_one_shape(partial(_timed, once, streams), rounds, effort)
            rounds.append([item.seconds for item in made])
            firsts += [item.first for item in made if item.first is not None]


@dataclass(frozen=True, slots=True)
class _Timed:
    """One timed call, or several side by side.

    Attributes:
        spent: seconds that it took.
        seconds: those of one call; of all its tokens, where it ended before them.
        first: seconds until its first token.
    """

    spent: float
    seconds: float
    first: float | None


def _at_one_shape(timed: Callable[[], _Timed], before: Sequence[Sequence[float]], effort: Effort) -> list[_Timed]:
    """Return the calls of one round; `before` are the seconds of the earlier rounds at this shape."""
    made: list[_Timed] = []
    if not before or before[-1][-1] < effort.seconds:
        first = timed()  # warms up caches and buffers at this shape; for slow calls, that hardly matters
        if not before and first.spent > effort.slow:
            made.append(first)
    while sum(item.spent for item in made) < effort.seconds and len(made) < effort.calls:
        made.append(timed())
    return made


def _timed(once: Callable[[], object], streams: int) -> _Timed:
    start = _clock()
    made = once()
    spent = _clock() - start
    scale, first = (made.scale, made.first_seconds) if isinstance(made, Generated) else (1.0, None)
    return _Timed(spent, spent * scale / _calls_at_once(streams), first)


def _calls_at_once(streams: int) -> int:
    """Return the number of calls that keeps every stream busy most of the time while they are counted."""
    return 1 if streams == 1 else 4 * streams


def _together(pool: ThreadPoolExecutor, call: Callable[[], object], streams: int) -> object:
    """Run calls side by side; return the mean of their results where these are times of generations."""
    made = [done.result() for done in [pool.submit(call) for _ in range(_calls_at_once(streams))]]
    found = [item for item in made if isinstance(item, Generated)]
    if not found:
        return None
    first, scale = (float(np.mean([getattr(item, name) for item in found])) for name in ("first_seconds", "scale"))
    return Generated(first_seconds=first, scale=scale)


def _worth_going_on(
    tracks: Mapping[str, _Track], running: Sequence[str], shapes: Sequence[WorkShape], hopeless: float
) -> list[str]:
    """Return the candidates whose total over the shapes is not clearly behind the best one's."""
    scores = {name: score(_summaries(tracks[name], shapes)) for name in running}
    best = min(scores.values())
    return [name for name in running if scores[name] <= best * hopeless]


def _summaries(track: _Track, shapes: Sequence[WorkShape]) -> tuple[Measurement, ...]:
    return tuple(map(_summary, shapes, track.times, track.firsts, track.energies))


def _summary(
    shape: WorkShape, rounds: Sequence[Sequence[float]], firsts: Sequence[float], energy: Energy
) -> Measurement:
    milliseconds = np.concatenate(rounds) * 1e3
    median = float(np.median(milliseconds))
    medians = [float(np.median(times)) for times in rounds]
    return Measurement(
        shape=shape.name,
        items=shape.items,
        median=median,
        p95=float(np.percentile(milliseconds, 95)),
        least=float(milliseconds.min()),
        runs=len(milliseconds),
        spread=max(medians) / max(min(medians), 1e-9),
        tokens=shape.new * shape.items if shape.new is not None else None,
        first=float(np.median(firsts)) * 1e3 if firsts else None,
        calls=shape.calls,
        joules=energy.joules_in(median / 1e3),
        joules_estimate=energy.estimate,
    )
