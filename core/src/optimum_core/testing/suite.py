"""The base class of a backend's conformance tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from optimum_core.errors import OptimumError
from optimum_core.hardware import detect
from optimum_core.plan import Way
from optimum_core.plugins import manager
from optimum_core.testing import installed
from optimum_core.testing.contract import ContractTests
from optimum_core.testing.inference import InferenceTests
from optimum_core.testing.offers import OfferTests, all_running
from optimum_core.testing.promises import PROMISES
from optimum_core.testing.robustness import RobustnessTests
from optimum_core.testing.subjects import (
    Course,
    Subject,
    compiling_ways,
    courses,
    exporting_ways,
    serving_ways,
    subject_of,
    way_id,
)
from optimum_core.types import Support

#: Tests of files and memory, which do not depend on the precision: one way of each device and format suffices.
_BY_FORMAT = frozenset({"test_damaged_files_are_refused", "test_sessions_do_not_leak"})
#: The test that says why a backend is not ready; of one that is not, all others would only say it again.
_FIRST = "test_it_is_found_once_and_ready"
_NOT_READY = f"the backend is not ready, for the reason that {_FIRST} gives"


class BackendSuite(ContractTests, OfferTests, InferenceTests, RobustnessTests):
    """All conformance tests. Derive a class whose name starts with `Test`, and set the backend.

    Attributes:
        backend: the name of the entry point.
        option: a session option that the backend knows; the error for a misspelling of it must suggest it.
        leak_mib: MiB by which memory may grow from the 20th to the 60th session; where it grows by an eighth of that or
            less from the 5th to the 15th, no more are opened.
        gaps: tests known to fail, by name, with the reason. One that passes is an error, so that the list shrinks.

    Example::

        class TestAcme(BackendSuite):
            backend = "acme"
            gaps = {"test_torch_tensors_are_inputs": "acme reads numpy arrays only; issue 12"}
    """

    gaps: ClassVar[Mapping[str, str]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Generate one test per way that the probe's offers allow; if there is none, a test skipped with the reason."""
        supports, ready = manager().supports(detect()), installed.is_ready(self.backend)
        if "subject" in metafunc.fixturenames:
            alike = metafunc.definition.name in _BY_FORMAT
            _parametrize(metafunc, "way", ready, lambda: _serving(self.backend, supports, alike), way_id)
        if "course" in metafunc.fixturenames:
            _parametrize(metafunc, "course", ready, lambda: _all_courses(self.backend, supports), _course_id)
        if "running" in metafunc.fixturenames:
            _parametrize(metafunc, "running", ready, lambda: all_running(self.backend, supports), lambda item: item.id)

    @pytest.fixture(autouse=True)
    def _ready(self, request: pytest.FixtureRequest) -> None:
        """Skip what a backend that is not ready cannot pass: one cause is one failure."""
        if getattr(request.node, "originalname", request.node.name) != _FIRST and not installed.is_ready(self.backend):
            pytest.skip(_NOT_READY)

    @pytest.fixture
    def subject(self, way: Way) -> Subject:
        """Return the text model built on one way."""
        return subject_of(manager(), way)

    @pytest.fixture(autouse=True)
    def _promise(self, request: pytest.FixtureRequest) -> None:
        """Show the promise beside a failure."""
        promise = PROMISES.get(getattr(request.node, "originalname", request.node.name))
        if promise is not None:
            request.node.add_report_section("call", "promise", f"The contract: {promise}\n")

    @pytest.fixture(autouse=True)
    def _known_gap(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.gaps:
            request.applymarker(pytest.mark.xfail(reason=self.gaps[name], strict=True))


def _serving(backend: str, supports: Mapping[str, Support], alike: bool) -> tuple[Way, ...]:
    """Return the ways that end in a session; if precisions do not matter, the first of each device and format."""
    found = serving_ways(backend, supports)
    firsts = {(way.device, way.format): way for way in reversed(found)}
    return tuple(way for way in found if not alike or way is firsts[way.device, way.format])


def _all_courses(backend: str, supports: Mapping[str, Support]) -> tuple[Course, ...]:
    """Return the courses of running, of compiling for absent devices and of exporting for others.

    Raises:
        OptimumError: there are none; the error is the first reason.
    """
    found: tuple[Course, ...] = ()
    reasons = []
    for find in (serving_ways, compiling_ways, exporting_ways):
        try:
            found += courses(find(backend, supports))
        except OptimumError as error:
            reasons.append(error)
    if not found:
        raise reasons[0]
    return found


def _course_id(course: Course) -> str:
    route = course.way.routes[0] if len(course.way.routes) == 1 else None
    return "-".join(filter(None, (course.id, route)))


def _parametrize(
    metafunc: pytest.Metafunc, name: str, ready: bool, find: Callable[[], tuple[Any, ...]], label: Callable[[Any], str]
) -> None:
    reason = _NOT_READY
    if ready:
        try:
            metafunc.parametrize(name, [pytest.param(item, id=label(item)) for item in find()])
            return
        except OptimumError as error:
            reason = f"{error.who}: {error.why} ({error.remedy})"
    metafunc.parametrize(name, [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))])
