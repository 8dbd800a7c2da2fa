"""From a torch module to an exported program: the graph in torch's own operators, with the weights, in one file."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch

from optimum_core.errors import ExportError, OptionError
from optimum_core.models.flat import FlatModule, export_ready
from optimum_core.models.hub import quiet
from optimum_core.types import Artifact, ExportRequest, Step
from optimum_inc.machine import BACKEND, PROGRAM
from optimum_inc.programs import axis_problems, save, trace

_REMEDY = "use another backend, or fix the axis"


def export(request: ExportRequest) -> Artifact:
    """Write `model.pt2`, in which the axes that the request names vary.

    Raises:
        OptionError: the format, the route, the precision or an option is unknown.
        ExportError: the model cannot be traced, or an axis that is to vary came out fixed.
    """
    _check(request)
    who = f"backend '{BACKEND}', export of {request.source.name}"
    program = traced(request.source.module(), request, who)
    problems = axis_problems(program, request.inputs)
    if problems:
        raise ExportError(who, "; ".join(problems), _REMEDY)
    return Artifact(
        format=PROGRAM,
        path=request.output,
        files=save(program, request.output, request.inputs, request.outputs),
        inputs=request.inputs,
        outputs=request.outputs,
        steps=(_step(),),
    )


def traced(module: Any, request: ExportRequest, who: str) -> Any:
    """The `torch.export.ExportedProgram` of a model, tensors in and out in the order of the request's specs."""
    flat = FlatModule(module, [spec.name for spec in request.inputs], [spec.name for spec in request.outputs]).eval()
    samples = [torch.as_tensor(request.samples[spec.name]) for spec in request.inputs]
    try:
        with quiet(), export_ready(module):
            return trace(flat, samples, request.inputs)
    except Exception as error:  # tracing fails in any way it likes
        raise ExportError(who, f"{type(error).__name__}: {error}", _REMEDY) from error


def _check(request: ExportRequest) -> None:
    who = f"backend '{BACKEND}'"
    if request.format != PROGRAM:
        raise OptionError(who, f"it does not export {request.format!r}", f"ask for {PROGRAM!r}")
    if request.route is not None:
        raise OptionError(who, f"unknown route {request.route!r}", "it has one route, without a name")
    if request.precision != "fp32":
        raise OptionError(who, f"it does not export in {request.precision!r}", "ask for 'fp32'")
    if request.options:
        raise OptionError(who, f"unknown export options: {', '.join(request.options)}", "leave them out")


def _step() -> Step:
    versions = {"transformers": version("transformers")}
    return Step(
        hook="export", backend=BACKEND, tool="torch.export", version=version("torch"), options={"versions": versions}
    )
