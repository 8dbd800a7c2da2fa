"""The hooks of backend `ort`. Light to import: the bodies import numpy, onnxruntime and onnx where they need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_core.backend import run_own
from optimum_core.hookspecs import hookimpl
from optimum_ort.devices import BACKEND, support

if TYPE_CHECKING:
    from optimum_core.types import (
        Array,
        Artifact,
        Hardware,
        OptimizeRequest,
        QuantizeRequest,
        Session,
        SessionRequest,
        Support,
    )


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offer the devices that the installed ONNX Runtime can use on this machine."""
    return support(hardware)


@hookimpl
def optimize(request: OptimizeRequest) -> Artifact | None:
    """Optimize an ONNX artifact; see `optimum_ort.optimize`."""
    if request.backend != BACKEND:
        return None
    from optimum_ort.optimize import optimize as optimize_artifact

    return optimize_artifact(request)


@hookimpl
def quantize(request: QuantizeRequest) -> Artifact | None:
    """Quantize an ONNX artifact; see `optimum_ort.quantize`."""
    if request.backend != BACKEND:
        return None
    from optimum_ort.quantize import quantize as quantize_artifact

    return quantize_artifact(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open an ONNX artifact; see `optimum_ort.session`, and `decoding` for decoders."""
    if request.backend != BACKEND:
        return None
    if request.artifact.state is not None:
        from optimum_ort.decoding import OrtDecoderSession

        return OrtDecoderSession(request)
    from optimum_ort.session import OrtSession

    return OrtSession(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(BACKEND, session, inputs)
