"""CPU load of other programs during a measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(slots=True)
class CpuLoad:
    """The number of cores that other processes kept busy, on average; None: this process cannot see them all."""

    cores: float | None = None


@contextmanager
def other_load(usable_cores: int) -> Iterator[CpuLoad]:
    """Measure the CPU load of other processes while the block runs.

    Args:
        usable_cores: number of cores that this process may use. If the machine has more, others may be busy on those
            without disturbing anything, so that the load stays None.
    """
    found, own = CpuLoad(), psutil.Process()
    if psutil.cpu_count() != usable_cores:
        yield found
        return
    start, all_before, own_before = time.perf_counter(), _busy(), sum(own.cpu_times()[:2])
    try:
        yield found
    finally:
        elapsed = max(time.perf_counter() - start, 1e-3)
        others = _busy() - all_before - (sum(own.cpu_times()[:2]) - own_before)
        found.cores = max(0.0, others / elapsed)


def _busy() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # User time already contains guest time.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)
