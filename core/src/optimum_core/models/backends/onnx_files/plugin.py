"""The built-in ONNX backend: it exports, and evaluates ONNX files of any origin for checks. It is no runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core.errors import ExportError
from optimum_core.hookspecs import hookimpl
from optimum_core.models.backends.onnx_files.extended import EXTENDED
from optimum_core.models.backends.onnx_files.forms import FORM
from optimum_core.models.backends.onnx_files.pairs import PAIR
from optimum_core.options import no_options
from optimum_core.packages import missing, versions
from optimum_core.types import Artifact, ExportRequest, Hardware, Limitation, Offer, Session, Step, Support

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optimum_core.models.sources.onnx_evaluator import GraphSession
    from optimum_core.models.sources.onnx_file import OnnxSource
    from optimum_core.types import Array, SessionRequest

NAME = "onnx"
_CHECK_OPTIONS = partial(no_options, f"backend {NAME!r}")
# Opset 18 has everything that transformers' models need; the runtimes' fusions support its forms best.
PREFERRED_OPSET = 18
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
#: The exporter and its package, by whether it is torch's TorchScript-based one.
_TOOLS = {True: ("torch.onnx", "torch"), False: ("transformers.exporters", "transformers")}
_NO_RUNTIME = Limitation(
    what="run onnx",
    reason="optimum-core writes and checks ONNX, and has no runtime for it",
    remedy="save it, and take it to a runtime; `accelerate` with optimum-ort installed does both here",
    hook="load_session",
)


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Return the offer to export if torch, transformers and onnx are installed, else the limitation."""
    if lacking := missing(_PACKAGES):
        return Support(
            limitations=(
                Limitation(
                    what="export to onnx",
                    reason=f"{', '.join(lacking)} not installed",
                    remedy="pip install 'optimum-core[export]'",
                    hook="export",
                ),
            )
        )
    from optimum_core.models.exporting import ROUTES

    offer = Offer(device="any", exports=(NAME,), routes=ROUTES, loads=(NAME,), stateful=(NAME,), proof="graph")
    found = versions(_PACKAGES)
    return Support(
        offers=(offer,),
        limitations=(_NO_RUNTIME,),
        versions=found,
        check_options=_CHECK_OPTIONS,
        foreign=(FORM, PAIR, EXTENDED),
    )


@hookimpl
def export(request: ExportRequest) -> Artifact | None:
    """Write `model.onnx` by the route that the request names; a decoder with its past and present as tensors."""
    if request.backend != NAME:
        return None
    if request.source.format == NAME:
        return _as_it_is(request)
    from optimum_core.models.backends.onnx_files.divisions import guard_divisions
    from optimum_core.models.exporting import ROUTES, OnnxRequest, writer
    from optimum_core.models.exporting.rewriting import export_ready
    from optimum_core.models.exporting.tracing import graph_inputs, graph_outputs, sample_tensors, stateless
    from optimum_core.models.pretrained import quiet

    route = request.route or ROUTES[0]
    opset = min(PREFERRED_OPSET, request.opset or PREFERRED_OPSET)
    module = request.source.module()
    path = request.output / "model.onnx"
    _require_own_names(request)
    with quiet(), export_ready(module):
        branches = writer(route)(
            OnnxRequest(
                module=stateless(module, request),
                samples=sample_tensors(request),
                inputs=graph_inputs(request),
                outputs=graph_outputs(request),
                opset=opset,
                path=path,
            )
        )
    guard_divisions(path)
    tool, package = _TOOLS[route == "torchscript"]
    options = {"route": route, "opset": opset, **({"branches": list(branches)} if branches else {})}
    return _artifact(request, _written(path), tool, package, options)


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open a graph in the reference evaluator; see `optimum_core.models.sources.onnx_evaluator`."""
    if request.backend != NAME:
        return None
    from optimum_core.models.sources.onnx_evaluator import open_graph

    return open_graph(request)


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Evaluate a graph once."""
    if session.backend != NAME:
        return None
    own: GraphSession = session  # type: ignore[assignment]
    return own.run(inputs)


def _as_it_is(request: ExportRequest) -> Artifact:
    """Return an artifact of a model that was given as an ONNX file."""
    from optimum_core.models.backends.onnx_files.divisions import guard_divisions

    source: OnnxSource = request.source  # type: ignore[assignment]
    files = source.copy_to(request.output)
    guard_divisions(request.output / files[0])
    return _artifact(request, files, "onnx", "onnx", {"given": source.name})


def _artifact(
    request: ExportRequest, files: tuple[str, ...], tool: str, package: str, options: Mapping[str, Any]
) -> Artifact:
    """Return the artifact of files in the folder of the request, written by a tool of a package."""
    step = Step(hook="export", backend=NAME, tool=tool, version=versions(_PACKAGES)[package], options=options)
    return Artifact(
        format=NAME,
        path=request.output,
        files=files,
        inputs=request.inputs,
        outputs=request.outputs,
        state=request.state,
        steps=(step,),
    )


def _require_own_names(request: ExportRequest) -> None:
    """Raise `ExportError` where an output has the name of an input: one graph cannot have both."""
    twice = sorted({spec.name for spec in request.inputs} & {spec.name for spec in request.outputs})
    if twice:
        who, why = f"backend {NAME!r}, model {request.source.name!r}", f"its output {twice[0]!r} is named as an input"
        raise ExportError(who, why, f"return {twice[0]!r} under another name")


def _written(path: Path) -> tuple[str, ...]:
    others = sorted(item.name for item in path.parent.iterdir() if item.is_file() and item != path)
    return (path.name, *others)
