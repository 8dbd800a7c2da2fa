"""Conversions by optimum-coreml: small models of many architectures, by each route, in each precision, and how true."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.benchmarks import convertible
from tests.benchmarks.page import Page

from optimum_core.errors import OptimumError
from optimum_core.hardware import detect
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.pretrained import quiet
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import PluginManager, manager
from optimum_core.types import (
    Artifact,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
)
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.reference import reference_cases

_BACKEND = "coreml"
_ROUTES = ("trace", "export")
_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """A model, and eager's word on it at shapes that were not traced."""

    name: str
    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """The result of a route in one precision; `error` None: it was not converted."""

    text: str
    passed: bool


def run(cache: Path) -> Page:
    """Every architecture by every route in every precision."""
    rows, converted = [], 0
    for name in convertible.NAMES:
        row, passed = _row(name, cache)
        rows.append(row)
        converted += passed
    count = len(rows)
    return Page(
        name="coreml",
        title="Converted models",
        head=(
            "model",
            "varying axes",
            *(f"{precision}, {route}" for precision in _PRECISIONS for route in _ROUTES),
            "level",
            "seconds",
        ),
        rows=tuple(rows),
        notes=(
            f"{converted} of {count} architectures convert by one route at least and agree with eager in all three "
            "precisions: graph semantics on this machine; Core ML's own arithmetic not run.",
            "Small models from their configurations, random weights, matrices six times the usual (T5, which does not "
            "scale its scores: 1.5 times). A figure is the greatest relative error against eager over all outputs and "
            "all cases: every varying axis shorter and longer than traced, all at once, padding on both sides. In "
            "bold: beyond the tolerance of the precision, with the case. fp16 is the fp32 program brought to 16 bits, "
            "int8 its weights by channel. Seconds: to convert by each route.",
        ),
    )


def _row(name: str, cache: Path) -> tuple[tuple[str, ...], bool]:
    try:
        with quiet():
            subject = _subject(name)
    except OptimumError as error:
        return (name, f"eager: {_short(error.why)}", *["–"] * 8), False
    outcomes: dict[str, Mapping[str, _Outcome]] = {}
    seconds = []
    for route in _ROUTES:
        begun = time.perf_counter()
        made = _exported(subject, route, cache)
        seconds.append(f"{time.perf_counter() - begun:.1f}")
        outcomes[route] = dict(_outcomes(subject, made, cache))
    cells = [outcomes[route][precision].text for precision in _PRECISIONS for route in _ROUTES]
    passed = any(all(item.passed for item in found.values()) for found in outcomes.values())
    axes = ", ".join(subject.signature.axes) or "none"
    return (name, axes, *cells, "graph", " / ".join(seconds)), passed


def _subject(name: str) -> _Subject:
    source = MemorySource(convertible.make(name))
    signature = describe(source.module(), name=name)
    return _Subject(name=name, source=source, signature=signature, cases=reference_cases(source.module(), signature))


def _exported(subject: _Subject, route: str, cache: Path) -> Artifact | OptimumError:
    output = Path(mkdtemp(dir=cache))
    request = export_of(_BACKEND, _BACKEND, subject.source, subject.signature, output, route=route)
    try:
        return manager().export(request)
    except OptimumError as error:
        return error


def _outcomes(subject: _Subject, made: Artifact | OptimumError, cache: Path) -> Iterator[tuple[str, _Outcome]]:
    for precision in _PRECISIONS:
        if isinstance(made, OptimumError):
            yield precision, _Outcome(text=_short(made.why) if precision == "fp32" else "–", passed=False)
            continue
        try:
            yield precision, _compared(subject, _in(precision, made, cache), precision)
        except OptimumError as error:
            yield precision, _Outcome(text=f"**{_short(error.why)}**", passed=False)


def _in(precision: str, made: Artifact, cache: Path) -> Artifact:
    plugins: PluginManager = manager()
    output = Path(mkdtemp(dir=cache))
    if precision == "fp16":
        return plugins.optimize(
            OptimizeRequest(
                backend=_BACKEND, artifact=made, device="all", precision="fp16", hardware=detect(), output=output
            )
        )
    if precision == "int8":
        config = QuantizeConfig(scheme="weight-only")
        asked = QuantizeRequest(backend=_BACKEND, artifact=made, config=config, hardware=detect(), output=output)
        return plugins.quantize(replace(asked, options={"weight_threshold": 64}))
    return made


def _compared(subject: _Subject, artifact: Artifact, precision: str) -> _Outcome:
    plugins = manager()
    arithmetic = "fp16" if precision == "fp16" else "fp32"
    session = plugins.load_session(
        SessionRequest(backend=_BACKEND, artifact=artifact, device="all", hardware=detect(), precision=arithmetic)
    )
    try:
        call: Any = plugins.binder(session)
        fidelity = verify(call, subject.cases, subject.signature.outputs, precision=precision)
    finally:
        session.close()
    worst = fidelity.worst
    assert worst is not None
    if fidelity.passed:
        return _Outcome(text=f"{worst.relative_error:.0e}", passed=True)
    return _Outcome(text=f"**{worst.relative_error:.0e}** ({worst.case}: {_short(worst.problem)})", passed=False)


def _short(why: str) -> str:
    text = " ".join(why.replace("|", "/").split())
    return text if len(text) <= 90 else f"{text[:89]}…"
