"""A pytest plugin for the tests of backends: `pytest -p optimum_core.testing.fixtures`.

Each worker of pytest-xdist gets a processor core of its own, so that runtimes of two workers do not wait for each
other's spinning threads, and measurements are short.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep a worker on one core, before anything counts the cores."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def measured_shortly() -> Iterator[None]:
    """Short measurements: which candidate wins decides nothing in tests."""
    from optimum_core.measure import Effort, measuring

    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield
