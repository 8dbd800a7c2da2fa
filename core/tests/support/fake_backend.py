"""A backend that runs what it is told to, and a search over it and the eager model, for tests of searches.

Measurements go by `CLOCK`: a call takes the time that is stated here, however busy the machine is.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clocks import Clock
from optimum_core.cache import Cache
from optimum_core.errors import SessionError
from optimum_core.hookspecs import hookimpl
from optimum_core.measure import Effort, measuring
from optimum_core.measure.workload import workload
from optimum_core.models.backends.eager_torch import plugin as torch_plugin
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import MemorySource
from optimum_core.plan import parse_target, ways
from optimum_core.plugins import PluginManager
from optimum_core.search.budget import Budget
from optimum_core.search.builder import Builder
from optimum_core.search.candidate_search import search as run_search
from optimum_core.search.context import SearchContext, SearchResult
from optimum_core.search.references import References
from optimum_core.search.spec import specs_of
from optimum_core.types import (
    Array,
    Artifact,
    Cpu,
    Event,
    ExportRequest,
    Hardware,
    Offer,
    Session,
    SessionRequest,
    Step,
    Support,
    TensorSpec,
)

Arrays = Mapping[str, Any]
#: What a backend makes of a call: from the eager model, the artifact and the inputs to outputs.
Deed = Callable[[Any, Artifact, Arrays], Arrays]

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)
#: The medians of two calls are those of many, as the clock is exact.
QUICK = Effort(rounds=2, seconds=0.0001, hopeless=math.inf, steady=math.inf, settle=0.0)
CLOCK = Clock()
#: Seconds of a call: of the eager model and of a backend that computes as it does, of slow ones, and of a look-up.
EAGER, SLOW, FAR_BEHIND, LOOK_UP = 0.01, 0.02, 0.06, 0.0001


def no_time() -> Budget:
    """Return a budget that is over: a budget runs from when it is made, so each search needs one of its own."""
    return Budget(seconds=0.0, stated=True)


@contextmanager
def installed(**backends: Any) -> Iterator[None]:
    """For `accelerate`, nothing but these backends is installed while the block runs."""
    plugins = PluginManager([])
    for name, backend in backends.items():
        plugins.register(backend, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("optimum_core.api"), "manager", lambda: plugins)
        yield


@dataclass(kw_only=True, eq=False)
class Opened:
    """A session that computes with the eager model, in the way of its artifact's route."""

    artifact: Artifact
    module: Any
    deed: Deed
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    backend: str = "acme"
    device: str = "cpu"
    precision: str = "fp32"
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


@dataclass(eq=False)
class Acme:
    """A backend that exports by routes and runs what it exported; `routes` says what each comes out as."""

    routes: dict[str, Deed | Exception]
    exported: list[str] = field(default_factory=list)
    sessions: list[Opened] = field(default_factory=list)

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(offers=(Offer(device="cpu", exports=("acme",), routes=tuple(self.routes), loads=("acme",)),))

    @hookimpl
    def export(self, request: ExportRequest) -> Artifact | None:
        if request.backend != "acme":
            return None
        assert request.route is not None
        self.exported.append(request.route)
        deed = self.routes[request.route]
        if isinstance(deed, Exception):
            raise deed
        (request.output / "model.acme").write_text(request.route, encoding="utf-8")
        return Artifact(
            format="acme",
            path=request.output,
            files=("model.acme",),
            inputs=request.inputs,
            outputs=request.outputs,
            steps=(Step(hook="export", backend="acme", tool="acme", version="1", options={"route": request.route}),),
        )

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.backend != "acme":
            return None
        deed = self.routes[request.artifact.main_file.read_text(encoding="utf-8")]
        assert request.source is not None
        assert not isinstance(deed, Exception)
        made = request.artifact
        session = Opened(
            artifact=made, module=request.source.module(), deed=deed, inputs=made.inputs, outputs=made.outputs
        )
        self.sessions.append(session)
        return session

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
        if not isinstance(session, Opened):
            return None
        if session.closed:
            raise SessionError("backend 'acme'", "the session is closed", "load again")
        return session.deed(session.module, session.artifact, inputs)


@dataclass(eq=False)
class Memory:
    """The fastest backend there is: it looks every answer up."""

    known: dict[bytes, Arrays] = field(default_factory=dict)

    def __call__(self, module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
        CLOCK.seconds += LOOK_UP
        key = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
        if key not in self.known:
            self.known[key] = eager_outputs(module, inputs)
        return self.known[key]


def right(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    CLOCK.seconds += EAGER
    return eager_outputs(module, inputs)


def wrong(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    return {name: array * 1.5 for name, array in eager_outputs(module, inputs).items()}


def slow(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    CLOCK.seconds += SLOW
    return eager_outputs(module, inputs)


def far_behind(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    CLOCK.seconds += FAR_BEHIND
    return eager_outputs(module, inputs)


def baked(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    """Right at one sequence length only: the one at which it was exported."""
    length = artifact.inputs[0].shape[1]
    expected = length if isinstance(length, int) else 13
    outputs = eager_outputs(module, inputs)
    off = 0 if inputs["input_ids"].shape[1] == expected else 1
    return {name: array + off for name, array in outputs.items()}


def refusing(module: Any, artifact: Artifact, inputs: Arrays) -> Arrays:
    raise SessionError("backend 'acme'", "it runs nothing today", "come back tomorrow")


class EagerTime:
    """An observer that lets every call of the eager model take its time."""

    @hookimpl(wrapper=True)
    def infer(self, session: Session) -> Generator[None, Arrays | None, Arrays | None]:
        if session.backend == "torch":
            CLOCK.seconds += EAGER
        return (yield)


def builder_with(acme: Acme, source: Any, place: Path, emit: Callable[[Event], None] = lambda event: None) -> Builder:
    """Return a builder over the eager backend and Acme, with its files in `place`."""
    plugins = PluginManager([])
    plugins.register(torch_plugin, "torch")
    plugins.register(acme, "acme")
    plugins.register(EagerTime(), "time")
    return Builder(
        source=source,
        plugins=plugins,
        supports=plugins.supports(HARDWARE),
        hardware=HARDWARE,
        cache=Cache(place / "cache"),
        workshop=place,
        emit=emit,
    )


Described = Callable[[str], tuple[Any, ModelSignature]]


@dataclass(eq=False)
class Search:
    """Everything for one search over a tiny BERT, the eager backend and Acme."""

    acme: Acme
    module: Any
    signature: ModelSignature
    place: Path
    events: list[Event] = field(default_factory=list)

    def run(self, target: str = "auto", **settings: Any) -> SearchResult:
        chosen, source = parse_target(target), MemorySource(self.module)
        builder = builder_with(self.acme, source, self.place, self.events.append)
        every = ways(builder.supports, parse_target("auto"))
        choosable = {way.backend for way in every} if chosen.backend is None else {chosen.backend}
        context = SearchContext(
            source=source,
            signature=self.signature,
            specs=tuple(
                spec
                for spec in specs_of([way for way in every if way.is_eager or way.backend in choosable])
                if spec.is_baseline or not spec.way.is_eager  # compiling the eager model would take seconds each
            ),
            workload=lambda seen: workload([{"batch": 1}], seen.inputs),
            builder=builder,
            plugins=builder.plugins,
            choosable=frozenset(choosable),
            references=References(source=source, emit=self.events.append),
            emit=self.events.append,
            **{
                "may_restrict": chosen.backend is not None,
                "effort": QUICK,
                "budget": Budget(seconds=1e4),
                **settings,
            },
        )
        with measuring(None, clock=CLOCK):  # with the effort of the context, not that of other tests
            return run_search(context)
