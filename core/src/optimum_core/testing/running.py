"""Running the kit on one backend, and the results that pytest reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from optimum_core import __version__
from optimum_core.errors import UnavailableError
from optimum_core.hardware import detect
from optimum_core.plugins import Status, manager
from optimum_core.testing.scorecard import Check, PromiseOutcome, Scorecard
from optimum_core.types import Support

_SUITE = """
from optimum_core.testing import BackendSuite


class TestBackend(BackendSuite):
    backend = {backend!r}
    option = {option!r}
"""
#: The longest text of one failure.
_LONGEST = 1500


def run_kit(backend: str, *, option: str = "", arguments: Sequence[str] = ()) -> Scorecard:
    """Run all conformance tests on an installed backend and return the scorecard.

    Args:
        option: as in `BackendSuite`.
        arguments: further arguments for pytest, such as ("-k", "threads").

    Raises:
        UnavailableError: no such backend is installed, or no test was run.
    """
    supports, infos = manager().supports(detect()), manager().infos()
    info = next((item for item in infos if item.name == backend), None)
    if info is None:
        manager().support(backend, detect())  # raises, with the names that are installed
        raise UnavailableError(f"backend {backend!r}", "it is not installed", "install the distribution that ships it")
    collected = _Collected()
    with TemporaryDirectory(prefix="optimum-scorecard-") as folder:
        Path(folder, "test_backend.py").write_text(_SUITE.format(backend=backend, option=option), "utf-8")
        Path(folder, "pytest.ini").write_text("[pytest]\n", "utf-8")
        settings = ("-q", "-p", "no:cacheprovider", "-p", "optimum_core.testing.fixtures", "--tb=short")
        pytest.main([*settings, f"--rootdir={folder}", folder, *arguments], plugins=[collected])
    if not collected.checks:
        raise UnavailableError(f"backend {backend!r}", "no test was run", "see pytest's own output above")
    ready = info.status is Status.READY
    return Scorecard(
        backend=backend,
        distribution=f"{info.distribution} {info.version}".strip() or "registered in this process",
        contract=".".join(__version__.split(".")[:2]),
        kit=__version__,
        versions=supports.get(backend, Support()).versions if ready else {},
        checks=tuple(collected.checks),
    )


class _Collected:
    """A plugin of pytest that keeps the outcome of each test."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the call of a test, or the setup that prevented it."""
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            name, _, way = report.location[2].rpartition(".")[2].partition("[")
            outcome: PromiseOutcome = report.outcome
            self.checks.append(Check(test=name, way=way.removesuffix("]"), outcome=outcome, detail=_detail(report)))


def _detail(report: pytest.TestReport) -> str:
    told: Any = report.longrepr
    if report.outcome == "skipped":
        return str(told[2] if isinstance(told, tuple) else told).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    return str(crash.message if crash is not None else told or "")[:_LONGEST]
