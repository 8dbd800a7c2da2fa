"""Progress events, duration and memory of a stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from optimum_core.errors import OptimumError, first_line
from optimum_core.types import Event

Emit = Callable[[Event], None]
_SAMPLE_SECONDS = 0.005


@dataclass(slots=True)
class Stage:
    """A running stage: its block may set the problem, and read the duration afterwards."""

    problem: str = ""
    seconds: float = 0.0


@contextmanager
def watched(emit: Emit, stage: str, detail: str) -> Iterator[Stage]:
    """Emit an event when a stage begins, and one when it ends, with its seconds and problem."""
    emit(Event(stage=stage, detail=detail))
    start = time.perf_counter()
    running = Stage()
    try:
        yield running
    except BaseException as error:
        running.problem = running.problem or one_line(error)
        raise
    finally:
        running.seconds = time.perf_counter() - start
        emit(Event(stage=stage, detail=detail, seconds=running.seconds, problem=running.problem))


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, for a table: the whole reason of ours, the first line of any other."""
    if isinstance(error, OptimumError):
        return "; ".join(line.strip() for line in error.why.splitlines() if line.strip())
    return first_line(error)[:300]


@dataclass(slots=True)
class Memory:
    """The growth of this process's resident memory at its peak, in bytes."""

    growth: int = 0


@contextmanager
def watched_memory() -> Iterator[Memory]:
    """Sample resident memory while the block runs."""
    process, seen, done = psutil.Process(), Memory(), threading.Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            seen.growth = max(seen.growth, process.memory_info().rss - before)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.growth = max(seen.growth, process.memory_info().rss - before)
