"""Backends whose sessions take the time and make the errors that a test states, and `accelerate` with nothing else.

Times are exact: measurements go by a clock that only these sessions advance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from clocks import Clock
from fake_backend import installed
from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import PromiseError, SessionError
from optimum_core.hookspecs import hookimpl
from optimum_core.measure import Effort, measuring
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.types import (
    Array,
    Artifact,
    ExportRequest,
    Hardware,
    Offer,
    QuantizeConfig,
    QuantizeRequest,
    Report,
    Session,
    SessionRequest,
    Support,
    TensorSpec,
    Transform,
)

#: Medians of one call are those of many, as the clock is exact.
ONCE = Effort(rounds=1, seconds=math.inf, calls=1, hopeless=math.inf, settle=0.0)
#: First feature of a row that is data: rows drawn for comparison are never that large, and come out right.
DATA = 100.0
ROWS, BATCH, LAYERS = 20, 5, 10
DYNAMIC, STATIC = "dynamic-int8", "static-int8"


class Deep(torch.nn.Module):
    """Two choices for each row, by many small layers."""

    output = "logits"

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = x[:, 1:]
        for layer in self.layers:
            hidden = hidden + 0.01 * layer(hidden)
        return {self.output: 5 + torch.tanh(hidden) / 5}  # so near each other that a choice may change by rounding


def rows(first: int = 0, batch: int = BATCH) -> list[dict[str, Any]]:
    """Return rows of data in batches; each row has the number by which backends know it, from the `first` on."""
    values = np.random.default_rng(7 + first).standard_normal((ROWS, 2)).astype(np.float32)
    numbers = DATA + np.arange(first, first + ROWS, dtype=np.float32)
    found = np.column_stack([numbers, values])
    return [{"x": found[start : start + batch]} for start in range(0, ROWS, batch)]


def labelled(batch: int = BATCH) -> list[dict[str, Any]]:
    """Return rows with the choices of the eager model as their labels."""
    return [{**row, "label": eager_outputs(deep(), row)["logits"].argmax(axis=-1)} for row in rows(batch=batch)]


@dataclass(frozen=True, kw_only=True)
class Form:
    """The artifact that a session runs, and the number of rows of a call.

    Attributes:
        left: layers left in float, by the configuration or by the backend's own control.
    """

    config: QuantizeConfig | None
    format: str = ""
    route: str | None = None
    precision: str = "fp32"
    left: int = 0
    prepared: bool = False
    rows: int = 1

    @property
    def is_quantized(self) -> bool:
        return self.config is not None


@dataclass(kw_only=True, eq=False)
class Opened:
    """A session of a stated backend, and the rows of data that it was called with."""

    backend: str
    module: Any
    form: Form
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: str = "cpu"
    closed: bool = False
    asked: list[int] = field(default_factory=list)

    def close(self) -> None:
        self.closed = True


@dataclass(kw_only=True, eq=False)
class Stated:
    """A backend with a format of its own, or one that runs the eager model.

    Attributes:
        takes: milliseconds of a call.
        loses: the number of rows of data, the first ones, for which it makes the other choice.
        breaks: changes the outputs of every call.
        formats: those that it writes and loads, the preferred one first; empty: one of its own name.
        controls: by itself it leaves ever more layers in float until the promise is kept; else it gives up at once.
    """

    name: str
    takes: Callable[[Form], float]
    loses: Callable[[Form], int] = lambda form: 0
    breaks: Callable[[Form, Array], Array] = lambda form, values: values
    controls: bool = False
    live: bool = False
    schemes: tuple[str, ...] = (DYNAMIC, STATIC, "weight-only-int4")
    formats: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    prepares: bool = False
    clock: Clock = field(default_factory=Clock)
    sessions: list[Opened] = field(default_factory=list)
    most_open: int = 0

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        if self.live:
            return Support(offers=(Offer(device="cpu", live=True),))
        formats = self.formats or (self.name,)
        offer = Offer(
            device="cpu", exports=formats, routes=self.routes, loads=formats, precisions=self.precisions,
            quantizes=(Transform(takes=self.name, gives=self.name),), schemes=self.schemes, runs=self.schemes,
            prepares=self.prepares,
        )  # fmt: skip
        return Support(offers=(offer,))

    @hookimpl
    def export(self, request: ExportRequest) -> Artifact | None:
        if request.backend != self.name:
            return None
        self._write(request.output, {"route": request.route})
        return Artifact(
            format=request.format, path=request.output, files=("model",), inputs=request.inputs, outputs=request.outputs
        )

    @hookimpl
    def quantize(self, request: QuantizeRequest) -> Artifact | None:
        if request.backend != self.name:
            return None
        recipe = {"config": request.config.to_dict(), "left": len(request.config.exclude)}
        artifact = replace(request.artifact, path=request.output, precision=request.config.name)
        self._write(request.output, recipe)
        if request.shortfall is not None:
            self._control(request, artifact, recipe)
        return artifact

    def _control(self, request: QuantizeRequest, artifact: Artifact, recipe: dict[str, Any]) -> None:
        """Leave more and more layers in float until a session on the artifact keeps the promise."""
        assert request.shortfall is not None
        for left in range(LAYERS if self.controls else 0):
            self._write(request.output, {**recipe, "left": left})
            session = self._opened(artifact, request.source)
            missed = request.shortfall(session)
            session.close()
            if not missed:
                return
        raise PromiseError(self.name, "it took everything back", "allow more")

    @hookimpl
    def load_session(self, request: SessionRequest) -> Session | None:
        if request.backend != self.name:
            return None
        session = self._opened(request.artifact, request.source)
        session.form = replace(session.form, precision=request.precision, prepared=bool(request.shapes))
        return session

    def _opened(self, artifact: Artifact, source: Any) -> Opened:
        made = json.loads(artifact.main_file.read_text(encoding="utf-8")) if artifact.files else {}
        config = QuantizeConfig.from_dict(made["config"]) if "config" in made else None
        form = Form(config=config, format=artifact.format, route=made.get("route"), left=made.get("left", 0))
        session = Opened(
            backend=self.name, module=source.module(), form=form, inputs=artifact.inputs, outputs=artifact.outputs
        )
        self.sessions.append(session)
        self.most_open = max(self.most_open, self.open)
        return session

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
        if not isinstance(session, Opened) or session.backend != self.name:
            return None
        if session.closed:
            raise SessionError(f"backend {self.name!r}", "the session is closed", "load again")
        x = np.asarray(inputs["x"])
        form = replace(session.form, rows=len(x))
        self.clock.seconds += self.takes(form) / 1e3
        with torch.no_grad():
            ((name, values),) = session.module(torch.from_numpy(x)).items()
        number = x[:, :1] - DATA
        session.asked += [int(one) for one in number.flat if one >= 0]
        lost = (number >= 0) & (number < self.loses(form))
        return {name: self.breaks(form, np.where(lost, values.numpy()[:, ::-1], values.numpy()))}

    @staticmethod
    def _write(output: Path, made: Mapping[str, Any]) -> None:
        (output / "model").write_text(json.dumps(made), encoding="utf-8")

    @property
    def open(self) -> int:
        """The number of sessions that are open."""
        return sum(not session.closed for session in self.sessions)


def eager(milliseconds: float = 10.0) -> Stated:
    """Return the backend of the eager model."""
    return Stated(name="eager", takes=lambda form: milliseconds, live=True)


def accelerated(
    place: Path, backends: Sequence[Stated], module: torch.nn.Module | None = None, **settings: Any
) -> AcceleratedModel:
    """Return what `accelerate` makes where nothing but these backends is installed."""
    clock = Clock()
    for backend in backends:
        backend.clock = clock
    sample = {"x": torch.zeros(2, 3)}
    with installed(**{backend.name: backend for backend in backends}), measuring(ONCE, clock=clock):
        return accelerate(
            module or deep(),
            **{"sample_inputs": sample, "cache_dir": mkdtemp(dir=place), "shapes": [{"batch": 1}], **settings},
        )


@cache
def deep() -> Deep:
    """Return the model."""
    return made(Deep)


def made(kind: type[Deep]) -> Deep:
    """Return a model of this class; the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind().eval()


def report_of(model: AcceleratedModel) -> Report:
    """Return the report of a model that was accelerated in this process."""
    assert model.report is not None
    return model.report


def judged(report: Report) -> list[str]:
    """Return the trials that were evaluated, in order: the backend and the number of layers left in float."""
    return [
        f"{trial.name.split()[0]} {len(trial.config.get('exclude', ()))}"
        for trial in report.walk
        if trial.value is not None
    ]
