"""Test subjects of a backend: the ways that its offers allow, and the artifacts built by them."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from optimum_core.errors import ExportError, OptimumError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.inputs.samples import Case
from optimum_core.plan import FLOATS, FULL_PRECISION, Quantization, Target, Way, ways
from optimum_core.plugins import Infer, PluginManager
from optimum_core.search.cross_build import runners
from optimum_core.testing.models import KINDS, Model, model
from optimum_core.types import (
    Artifact,
    ExportRequest,
    Offer,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    Session,
    SessionRequest,
    Support,
)
from optimum_core.types.arrays import ArrayMapping, Arrays
from optimum_core.types.quantization import Scheme
from optimum_core.verify import verify
from optimum_core.verify.quantized import verify_quantized

_CALIBRATION_BATCHES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """One model on one way at one level; `way.routes` are tried in turn."""

    way: Way
    level: str | None
    kind: str

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.kind, way_id(self.way), self.level)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """The artifact built of a course."""

    plugins: PluginManager
    way: Way
    model: Model
    artifact: Artifact

    def request(self, **changes: Any) -> SessionRequest:
        """Return the request that opens it; it includes the eager model only where the way runs that."""
        asked = SessionRequest(
            backend=self.way.backend,
            artifact=self.artifact,
            device=self.way.device,
            hardware=detect(),
            precision=self.way.precision,
            source=self.model.source if self.way.is_eager else None,
        )
        return replace(asked, **changes)

    @contextmanager
    def opened(self, **changes: Any) -> Iterator[tuple[Session, Infer]]:
        """Yield a session and the function that runs it; close it at the end."""
        session = self.plugins.load_session(self.request(**changes))
        try:
            yield session, self.plugins.binder(session)
        finally:
            session.close()

    @contextmanager
    def compared(self) -> Iterator[Infer]:
        """Yield the function to compare with eager: a session's; if the device is absent, that of the compiler's input.

        Raises:
            UnavailableError: the artifact does not state what it was compiled from, or no backend here runs that.
        """
        read = self.artifact.compiled_from
        if self.way.proof != "none":
            with self.opened() as (_, run):
                yield run
            return
        who = f"backend {self.way.backend!r}, {self.artifact.format}"
        if read is None:
            remedy = "give the artifact that the compiler read as `compiled_from`"
            raise UnavailableError(who, "nothing can be compared without its device", remedy)
        hardware = detect()
        request = next(runners(read, self.plugins.supports(hardware), hardware), None)
        if request is None:
            raise UnavailableError(who, f"nothing here runs {read.format}", "install a backend that does, beside it")
        session = self.plugins.load_session(request)
        try:
            yield self.plugins.binder(session)
        finally:
            session.close()


def numpy_of(outputs: Mapping[str, Any]) -> Arrays:
    """Return outputs as numpy arrays that share their memory."""
    return {name: a if isinstance(a, np.ndarray) else np.from_dlpack(a) for name, a in outputs.items()}


def way_id(way: Way) -> str:
    """Return the id of a way in the names of tests."""
    parts = [way.format or "live", way.backend, way.device, *(() if way.precision == "fp32" else (way.precision,))]
    return "-".join(parts).replace(":", "")


def serving_ways(backend: str, supports: Mapping[str, Support]) -> tuple[Way, ...]:
    """Return the ways that end in a session of `backend` on this machine, one per device, format and precision.

    Where several backends export a format, the backend's own exporter is used.

    Raises:
        UnavailableError: there is none; the message has the reasons and remedies.
    """
    own = supports.get(backend, Support())
    offers = [offer for offer in own.offers if offer.loads and offer.proof != "none"]
    if not offers:
        raise UnavailableError(f"backend {backend!r}", *_nothing_offered(own))
    found: dict[tuple[str, str | None, str], Way] = {}
    for offer in offers:
        for way in ways_of_offer(backend, offer, supports):
            key = way.device, way.format, way.precision
            if key not in found or way.exporter == backend:
                found[key] = way
    return tuple(found.values())


def compiling_ways(backend: str, supports: Mapping[str, Support]) -> tuple[Way, ...]:
    """Return the ways to artifacts for devices that are absent, one per format and precision.

    Raises:
        UnavailableError: there is none.
    """
    offers = [item for item in supports.get(backend, Support()).offers if item.loads and item.proof == "none"]
    if not offers:
        raise UnavailableError(f"backend {backend!r}", "it compiles for no absent device", "nothing is to be done")
    found: dict[tuple[str | None, str], Way] = {}
    for offer in offers:
        for way in ways_of_offer(backend, offer, supports):
            found.setdefault((way.format, way.precision), way)
    return tuple(found.values())


def ways_of_offer(backend: str, offer: Offer, supports: Mapping[str, Support]) -> Iterator[Way]:
    """Yield the ways of one offer at each of its precisions; of a live one, those by files too.

    Raises:
        UnavailableError: there is none.
    """
    variants = [offer] if not offer.live else [offer, replace(offer, live=False)]
    for variant in variants:
        # Offers of other backends are used for their exporters only.
        seen = {**supports, backend: replace(supports[backend], offers=_with(supports[backend], offer, variant))}
        target = Target(backend=backend, device=offer.device.lower())
        for precision in offer.precisions:
            try:
                yield from ways(seen, target, precision=precision)
            except UnavailableError:
                if not offer.runs:
                    raise
                # It runs quantized models only.
                asked = Quantization(schemes=offer.runs[:1], rest=precision)
                yield from ways(seen, target, precision=precision, quantization=asked)


def _with(support: Support, offer: Offer, variant: Offer) -> tuple[Offer, ...]:
    return tuple(variant if item is offer else item for item in support.offers)


def _nothing_offered(support: Support) -> tuple[str, str]:
    if not support.limitations:
        return "it offers to load nothing on this machine", "nothing is to be done where it only exports"
    reasons = "; ".join(f"{item.what}: {item.reason}" for item in support.limitations)
    return reasons, "; ".join(item.remedy for item in support.limitations)


def exporting_ways(backend: str, supports: Mapping[str, Support]) -> tuple[Way, ...]:
    """Return ways by which others run the formats that `backend` exports but does not load, one per format and route.

    Raises:
        UnavailableError: no backend here loads it, or it exports nothing.
    """
    offers = supports.get(backend, Support()).offers
    loaded = {item for offer in offers for item in offer.loads}
    formats = {item for offer in offers for item in offer.exports} - loaded
    if not formats:
        raise UnavailableError(f"backend {backend!r}", "it exports nothing for others", "nothing is to be done")
    found: dict[str, Way] = {}
    for way in ways(supports, Target()):
        if way.exporter == backend and way.exported in formats and not way.transforms:
            found.setdefault(str(way.format), way)
    if not found:
        why = f"nothing here loads {', '.join(sorted(formats))}"
        raise UnavailableError(f"backend {backend!r}", why, "install a backend that does, beside it")
    return tuple(replace(way, routes=(route,), levels=(None,)) for way in found.values() for route in way.routes)


def courses(found: tuple[Way, ...]) -> tuple[Course, ...]:
    """Return every model on every way at every level."""
    return tuple(
        Course(way=way, level=level, kind=kind)
        for way in found
        # The levels of an eager model compile it again for every shape: this takes minutes, and tests no backend code.
        for level in (way.levels[:1] if way.is_eager else way.levels)
        for kind in KINDS
    )


@cache
def build(plugins: PluginManager, course: Course, route: str | None) -> Subject:
    """Export and optimize a course's model, without checks.

    Raises:
        OptimumError: any error of the backends on the way.
    """
    way, made = course.way, model(course.kind)
    if way.is_eager:
        signature = made.signature
        # A placeholder for the eager model: names of inputs and outputs, and no files.
        artifact = Artifact(
            format="torch", path=scratch(), files=(), inputs=signature.inputs, outputs=signature.outputs
        )
        return Subject(plugins=plugins, way=way, model=made, artifact=artifact)
    artifact = exported(plugins, way, course.kind, route)
    if way.quantizer is not None:
        artifact = _quantized(plugins, way, artifact, made)
    for backend, _, _ in way.transforms:
        artifact = _optimized(plugins, backend, artifact, way, None)
    if course.level is not None:
        artifact = _optimized(plugins, way.backend, artifact, way, course.level)
    return Subject(plugins=plugins, way=way, model=made, artifact=artifact)


@cache
def _exported(
    plugins: PluginManager,
    exporter: str,
    format: str,
    kind: str,
    route: str | None,
    opset: int | None,
) -> Artifact:
    made = model(kind)
    return plugins.export(
        ExportRequest(
            backend=exporter,
            source=made.source,
            task=made.signature.task,
            format=format,
            precision=FULL_PRECISION,
            samples=made.signature.draw(Case(name="traced")),
            inputs=made.signature.inputs,
            outputs=made.signature.outputs,
            output=scratch(),
            route=route,
            opset=opset,
        )
    )


def exported(plugins: PluginManager, way: Way, kind: str, route: str | None) -> Artifact:
    """Return the artifact exported by the way's exporter, before further steps."""
    assert way.exporter is not None and way.exported is not None
    return _exported(plugins, way.exporter, way.exported, kind, route, way.opset)


def _optimized(plugins: PluginManager, backend: str, artifact: Artifact, way: Way, level: str | None) -> Artifact:
    return plugins.optimize(
        OptimizeRequest(
            backend=backend,
            artifact=artifact,
            device=way.device,
            precision=way.precision,
            hardware=detect(),
            output=scratch(),
            level=level,
        )
    )


def _quantized(plugins: PluginManager, way: Way, artifact: Artifact, made: Model) -> Artifact:
    assert way.quantizer is not None and way.scheme is not None
    return plugins.quantize(
        QuantizeRequest(
            backend=way.quantizer,
            artifact=artifact,
            config=QuantizeConfig.named(way.scheme),
            hardware=detect(),
            output=scratch(),
            calibration=[made.draw(seed) for seed in range(_CALIBRATION_BATCHES)],
            source=made.source,
            format=way.transforms[0][1] if way.transforms else way.format,
        )
    )


def subject_of(plugins: PluginManager, way: Way, kind: str = "text") -> Subject:
    """Return the way's first level, built by the first route that works.

    Raises:
        OptimumError: no route works; the error is that of the last one.
    """
    course = Course(way=way, level=way.levels[0], kind=kind)
    for route in way.routes[:-1]:
        try:
            return build(plugins, course, route)
        except ExportError:  # the next route may work, and the last one's error is raised
            continue
    return build(plugins, course, way.routes[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempts:
    """The outcomes of the routes of a course; every problem names its route."""

    passed: bool
    refused: tuple[str, ...]
    wrong: tuple[str, ...]


def attempt(plugins: PluginManager, course: Course) -> Attempts:
    """Try the routes in turn until one agrees with eager, as `accelerate` does."""
    refused: list[str] = []
    wrong: list[str] = []
    for route in course.way.routes:
        label = f"route {route}" if route else "its only route"
        try:
            subject = build(plugins, course, route)
        except (ExportError, UnavailableError) as error:
            refused.append(f"{label}: {error}")
            continue
        except OptimumError as error:
            wrong.append(f"{label}: {error}")
            continue
        problems = disagreements(subject)
        if not problems:
            return Attempts(passed=True, refused=tuple(refused), wrong=tuple(wrong))
        wrong.append(f"{label}: {'; '.join(problems[:5])}")
    return Attempts(passed=False, refused=tuple(refused), wrong=tuple(wrong))


def disagreements(subject: Subject) -> list[str]:
    """Return descriptions of the differences from eager for inputs that the model was not traced with."""
    cases, outputs = subject.model.cases, subject.model.signature.outputs
    with subject.compared() as run:

        def fresh(inputs: ArrayMapping) -> Arrays:
            # A backend that writes into its inputs must not change the references of the next.
            return numpy_of(run({name: array.copy() for name, array in inputs.items()}))

        rounded = _rounded(subject)
        if rounded is None:
            fidelity = verify(fresh, cases, outputs, precision=subject.way.precision)
        else:
            fidelity = verify_quantized(fresh, cases, (), outputs, precision=rounded, ties=True)
    assert fidelity.results, "nothing was compared"
    return [f"{item.case}, {item.output}: {item.problem}" for item in fidelity.results if not item.passed]


def _rounded(subject: Subject) -> str | None:
    """Return the number format of the weights of a quantized model; None: it is not quantized."""
    if subject.way.scheme is not None:
        return Scheme.parse(subject.way.scheme).weights
    return None if subject.artifact.precision in FLOATS else subject.artifact.precision


def scratch() -> Path:
    """Return a new empty directory, which is removed when this process ends."""
    return Path(mkdtemp(dir=_root()))


@cache
def _root() -> Path:
    root = Path(mkdtemp(prefix="optimum-conformance-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root
