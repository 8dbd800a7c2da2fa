"""Backends that answer every hook, and requests addressed to them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager
from optimum_core.types import (
    Array,
    Artifact,
    Cpu,
    ExportRequest,
    Hardware,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    Session,
    SessionRequest,
    Support,
    TensorSpec,
)

HARDWARE = Hardware(
    system="linux",
    system_version="6",
    cpu=Cpu(vendor="intel", model="x", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1,
)
X = np.arange(3.0)


@dataclass
class Scaled:
    """A session that multiplies its input."""

    backend: str
    factor: float
    device: str = "cpu"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def close(self) -> None:
        self.factor = 0.0


class Source:
    name = "tiny"
    fingerprint = "0"
    format = None

    def module(self) -> Any:
        raise AssertionError("no test needs the weights")


class Backend:
    """A whole backend, working on numpy; `fault` is what its hooks do instead, where given."""

    def __init__(self, name: str, factor: float = 1.0, fault: Callable[[], Any] | None = None) -> None:
        self.name, self.factor, self.fault = name, factor, fault

    def _made(self, hook: str, path: Path) -> Any:
        if self.fault is not None:
            return self.fault()
        return Artifact(format="acme", path=path, files=(f"{self.name}.{hook}",), inputs=(), outputs=())

    @hookimpl
    def probe(self, hardware: Hardware) -> Support:
        return Support(versions={self.name: "1"})

    @hookimpl
    def export(self, request: ExportRequest) -> Any:
        return self._made("export", request.output)

    @hookimpl
    def optimize(self, request: OptimizeRequest) -> Any:
        return self._made("optimize", request.output)

    @hookimpl
    def quantize(self, request: QuantizeRequest) -> Any:
        return self._made("quantize", request.output)

    @hookimpl
    def load_session(self, request: SessionRequest) -> Any:
        return self.fault() if self.fault else Scaled(backend=self.name, factor=self.factor)

    @hookimpl
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Any:
        assert isinstance(session, Scaled)
        assert session.backend == self.name
        if self.fault is not None:
            return self.fault()
        return {"y": np.asarray(inputs["x"]) * session.factor}


@dataclass(eq=False)
class Observer:
    """Notes every call of every backend."""

    seen: list[str] = field(default_factory=list)

    @hookimpl(wrapper=True)
    def export(self, request: ExportRequest) -> Generator[None, Any, Any]:
        self.seen.append(f"export {request.backend}")
        return (yield)

    @hookimpl(wrapper=True)
    def infer(self, session: Session) -> Generator[None, Any, Any]:
        self.seen.append(f"infer {session.backend}")
        return (yield)


class ExportOnly:
    @hookimpl
    def export(self, request: ExportRequest) -> None:
        return None


ARTIFACT = Artifact(format="acme", path=Path("in"), files=("m",), inputs=(), outputs=())


def exporting(backend: str) -> ExportRequest:
    return ExportRequest(
        backend=backend,
        source=Source(),
        task="t",
        format="acme",
        precision="fp32",
        samples={},
        inputs=(),
        outputs=(),
        output=Path("out"),
    )


def optimizing(backend: str) -> OptimizeRequest:
    return OptimizeRequest(
        backend=backend, artifact=ARTIFACT, device="cpu", precision="fp32", hardware=HARDWARE, output=Path("out")
    )


def quantizing(backend: str) -> QuantizeRequest:
    return QuantizeRequest(
        backend=backend, artifact=ARTIFACT, config=QuantizeConfig(), hardware=HARDWARE, output=Path("out")
    )


def opening(backend: str) -> SessionRequest:
    return SessionRequest(backend=backend, artifact=ARTIFACT, device="cpu", hardware=HARDWARE)


def two_backends() -> PluginManager:
    """Return a manager of the backends "one" and "two", which multiply by two and by three."""
    found = PluginManager([])
    found.register(Backend("one", factor=2.0), "one")
    found.register(Backend("two", factor=3.0), "two")
    return found


def call(plugins: PluginManager, hook: str, backend: str) -> Any:
    """One call of one hook, through the manager's own methods."""
    if hook == "infer":
        return plugins.binder(Scaled(backend=backend, factor=1.0))({"x": X})
    requests: dict[str, Callable[[str], Any]] = {
        "export": exporting,
        "optimize": optimizing,
        "quantize": quantizing,
        "load_session": opening,
    }
    return getattr(plugins, hook)(requests[hook](backend))


CALLED = ["export", "optimize", "quantize", "load_session", "infer"]
