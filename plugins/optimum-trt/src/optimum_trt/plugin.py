"""The hooks of backend `trt`. Light to import: the bodies import numpy, onnx, TensorRT and CUDA where needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_core.backend import run_own
from optimum_core.hookspecs import hookimpl
from optimum_trt.devices import support
from optimum_trt.modules import BACKEND

if TYPE_CHECKING:
    from optimum_core.types import Array, Artifact, Hardware, OptimizeRequest, Session, SessionRequest, Support


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offer the GPU here, and every compute capability that an engine can be built for from here."""
    return support(hardware)


@hookimpl
def optimize(request: OptimizeRequest) -> Artifact | None:
    """Build an engine of an ONNX artifact; see `optimum_trt.optimize`."""
    if request.backend != BACKEND:
        return None
    from optimum_trt.optimize import optimize as build

    return build(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open an engine; see `optimum_trt.session`."""
    if request.backend != BACKEND:
        return None
    from optimum_trt.session import open_session

    return open_session(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(BACKEND, session, inputs)
