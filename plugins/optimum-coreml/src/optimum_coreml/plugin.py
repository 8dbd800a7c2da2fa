"""The hooks of backend `coreml`. Light to import: their bodies import numpy, coremltools and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_core.backend import run_own
from optimum_core.hookspecs import hookimpl
from optimum_coreml.devices import BACKEND, support

if TYPE_CHECKING:
    from optimum_core.types import (
        Array,
        Artifact,
        ExportRequest,
        Hardware,
        OptimizeRequest,
        QuantizeRequest,
        Session,
        SessionRequest,
        Support,
    )


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offer Core ML's compute units on a Mac; elsewhere, offer to make artifacts for one."""
    return support(hardware)


@hookimpl
def export(request: ExportRequest) -> Artifact | None:
    """Write an ML program; see `optimum_coreml.export`."""
    if request.backend != BACKEND:
        return None
    from optimum_coreml.export import export as export_model

    return export_model(request)


@hookimpl
def optimize(request: OptimizeRequest) -> Artifact | None:
    """Write an ML program in another precision; see `optimum_coreml.optimize`."""
    if request.backend != BACKEND:
        return None
    from optimum_coreml.optimize import optimize as optimize_artifact

    return optimize_artifact(request)


@hookimpl
def quantize(request: QuantizeRequest) -> Artifact | None:
    """Compress the weights of an ML program; see `optimum_coreml.quantize`."""
    if request.backend != BACKEND:
        return None
    from optimum_coreml.quantize import quantize as quantize_artifact

    return quantize_artifact(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open an ML program; see `optimum_coreml.session`."""
    if request.backend != BACKEND:
        return None
    from optimum_coreml.session import open_session

    return open_session(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(BACKEND, session, inputs)
