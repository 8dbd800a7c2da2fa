"""A pytest plugin for the tests of backends: `pytest -p optimum_core.testing.fixtures`.

Each worker of pytest-xdist is pinned to its own processor core, so that the runtimes of two workers do not wait for
each other's spinning threads, and measurements are short. The fixtures `hardware`, `tiny` and `exported` make what
most tests of a backend begin with: a machine to probe, a model, and an exported one.
"""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from optimum_core.types import Artifact, Hardware


def _pin() -> None:
    """Pin a worker to one core."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker.startswith("gw") or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


# When the plugin is imported, not when pytest is configured: a library that a conftest imports counts the cores, and
# threads of two cores that wait for each other on one make torch fifty times slower.
_pin()
# Torch, transformers and the runtimes bring a million objects that live as long as the process. To look through them
# for garbage again and again, while they are imported and in every test, takes a tenth of the time.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "all_cores: needs two processor cores, so not a pinned worker")


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and only among what the tests make.

    Seldom: beside what is frozen there is little, so that Python by itself would look through all of it again and
    again, which took a fifth of the time of tests that export.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need several cores where there is one."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) > 1:
        return
    for item in items:
        if item.get_closest_marker("all_cores"):
            item.add_marker(pytest.mark.skip(reason="one core: run it without workers, by -m all_cores"))


_files: list[Path] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Before each file of tests, look through what earlier ones left for the last time.

    What they imported and cached lives on. coremltools and others collect garbage at each of their calls, which would
    take up to a second of each test, and more with every file.
    """
    if _files[-1:] != [item.path]:
        _files.append(item.path)
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Keep torch's trace of its own steps from the reports of tests."""
    _no_trace()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Keep torch's trace of its own steps from the reports of tests."""
    _no_trace()


def _no_trace() -> None:
    """Take pytest's handlers from the trace: torch writes it for them in a tenth of the time of an export."""
    trace = logging.getLogger("torch.__trace")
    trace.handlers[:] = [item for item in trace.handlers if not type(item).__module__.startswith("_pytest")]


@pytest.fixture(scope="session", autouse=True)
def measured_shortly() -> Iterator[None]:
    """Shorten measurements: tests do not depend on the candidate that wins."""
    from optimum_core.measure import Effort, measuring

    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield


@pytest.fixture(scope="session")
def hardware() -> Callable[..., Hardware]:
    """A function that returns this machine with two usable cores and no other device, changed as stated.

    Its arguments are fields of `Hardware` or of its `Cpu`: `hardware(system="macos", features={"neon"})`.
    """
    from optimum_core.testing.machine import machine

    return machine


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """A function that returns a new tiny model of a kind of `optimum_core.testing.kinds`; the same weights each time.

    Further arguments are other values of the configuration: `tiny("bert", num_hidden_layers=1)`.
    """
    from optimum_core.testing.kinds import tiny_module

    return tiny_module


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """A function that exports a tiny model in a format, once for equal arguments, whichever worker asks first.

    Its arguments are the kind, one of `decoders.KINDS` or else of `kinds.KINDS`, the format, and by name further fields
    of the `ExportRequest`: `exported("bert", "onnx", route="torchscript")`, `exported("llama", "onnx")`.
    """
    from optimum_core.testing.sharing import shared
    from optimum_core.testing.tiny import export

    @cache
    def make(kind: str, format: str, **fields: Any) -> Artifact:
        name = "-".join(["exported", kind, format, *(f"{key}={value}" for key, value in sorted(fields.items()))])
        return shared(tmp_path_factory, name, lambda folder: export(kind, format, folder, **fields))

    return make
