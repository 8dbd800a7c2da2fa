"""A pytest plugin for the tests of backends: `pytest -p optimum_core.testing.fixtures`.

Each worker of pytest-xdist is pinned to its own processor core, so that the runtimes of two workers do not wait for
each other's spinning threads, and measurements are short.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Pin a worker to one core, before any code counts the cores."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def measured_shortly() -> Iterator[None]:
    """Shorten measurements: tests do not depend on the candidate that wins."""
    from optimum_core.measure import Effort, measuring

    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield
