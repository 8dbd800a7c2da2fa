"""The hooks of backend `tract`. Light to import: only the standard library and optimum_core."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from optimum_core import hookimpl
from optimum_core.backend import limits, missing, no_options, run_own, versions
from optimum_core.types import (
    Array,
    Artifact,
    Hardware,
    Offer,
    OptimizeRequest,
    Session,
    SessionRequest,
    Support,
    Transform,
)

NAME = "tract"
_CHECK_OPTIONS = partial(no_options, f"backend {NAME!r}")
#: ONNX in one file, without the shapes noted inside of the graph, that tract has analysed.
FORMAT = "tract-onnx"
#: Option of the step that wrote it: rows of the tables that the inputs look up.
ROWS = "rows"
_OPSET = 20


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offer the CPU wherever tract is installed, and the conversion where onnx is too."""
    if nothing := limits(f"run {FORMAT}", ["tract"], "pip install tract"):
        return Support(limitations=tuple(nothing))
    limitations = limits(f"make {FORMAT}", ["onnx"], "pip install onnx", hook="optimize")
    builds = () if missing(["onnx"]) else (Transform(takes="onnx", gives=FORMAT),)
    offer = Offer(device="cpu", optimizes=builds, loads=(FORMAT,), opset=_OPSET)
    found = versions(["tract", "onnx"])
    return Support(
        offers=(offer,),
        limitations=tuple(limitations),
        versions=found,
        check_options=_CHECK_OPTIONS,
    )


@hookimpl
def optimize(request: OptimizeRequest) -> Artifact | None:
    """Convert ONNX to what tract takes; see `optimum_tract.convert`."""
    if request.backend != NAME:
        return None
    from optimum_tract.convert import convert

    return convert(request)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open a converted model; see `optimum_tract.session`."""
    if request.backend != NAME:
        return None
    from optimum_tract.session import TractSession

    return TractSession(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend once."""
    return run_own(NAME, session, inputs)
