"""The hooks of backend `openvino`. Light to import: their bodies import numpy, openvino and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from optimum_core.backend import run_own
from optimum_core.hookspecs import hookimpl
from optimum_openvino.devices import BACKEND, support

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
    """Offer the devices that the installed OpenVINO can use on this machine."""
    return support(hardware)


@hookimpl
def export(request: ExportRequest) -> Artifact | None:
    """Write OpenVINO IR; see `optimum_openvino.export`."""
    if request.backend != BACKEND:
        return None
    from optimum_openvino.export import export as export_model

    return export_model(request)


@hookimpl
def quantize(request: QuantizeRequest) -> Artifact | None:
    """Quantize OpenVINO IR; see `optimum_openvino.quantize`."""
    if request.backend != BACKEND:
        return None
    from optimum_openvino.quantize import quantize as quantize_artifact

    return quantize_artifact(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open an IR or ONNX artifact; see `optimum_openvino.session`, and `decoding` for decoders."""
    if request.backend != BACKEND:
        return None
    if request.artifact.state is not None:
        from optimum_openvino.decoding import OvDecoderSession

        return OvDecoderSession.of(request)
    from optimum_openvino.session import OvSession

    return OvSession.of(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(BACKEND, session, inputs)
