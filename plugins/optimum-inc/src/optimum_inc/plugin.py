"""The hooks of backend `inc`. Light to import: their bodies import numpy, torch and Neural Compressor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_core.backend import run_own
from optimum_core.hookspecs import hookimpl
from optimum_inc.devices import BACKEND, support

if TYPE_CHECKING:
    from optimum_core.types import (
        Array,
        Artifact,
        ExportRequest,
        Hardware,
        QuantizeRequest,
        Session,
        SessionRequest,
        Support,
    )


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offer the features of the installed torch and Neural Compressor on this machine's processor."""
    return support(hardware)


@hookimpl
def export(request: ExportRequest) -> Artifact | None:
    """Write an exported program; see `optimum_inc.export`."""
    if request.backend != BACKEND:
        return None
    from optimum_inc.export import export as export_model

    return export_model(request)


@hookimpl
def quantize(request: QuantizeRequest) -> Artifact | None:
    """Quantize an exported program; see `optimum_inc.quantize`."""
    if request.backend != BACKEND:
        return None
    from optimum_inc.quantize import quantize as quantize_artifact

    return quantize_artifact(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open a compiled package; see `optimum_inc.session`."""
    if request.backend != BACKEND:
        return None
    from optimum_inc.session import InductorSession

    return InductorSession(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(BACKEND, session, inputs)
