"""Export of a torch module to an exported program: a graph in torch's own operators, with the weights, in a file."""

from __future__ import annotations

from typing import Any

from optimum_core.backend import check_export, exported, foreign_errors, no_options, versions
from optimum_core.backend.tracing import exported_program, flat_module, ready_to_trace, sample_tensors
from optimum_core.errors import ExportError
from optimum_core.types import Artifact, ExportRequest
from optimum_inc.devices import BACKEND, PROGRAM
from optimum_inc.programs import axis_problems, save

_REMEDY = "use another backend, or fix the axis"


def export(request: ExportRequest) -> Artifact:
    """Write `model.pt2`, with dynamic axes where the request names them.

    Raises:
        OptionError: the format, the route, the precision or an option is unknown.
        ExportError: the model cannot be traced, or an axis that has to vary was specialized to one length.
    """
    check_export(request, PROGRAM, precisions=("fp32",))
    no_options(f"backend '{BACKEND}', export", request.options)
    who = f"backend '{BACKEND}', export of {request.source.name}"
    program = traced(request.source.module(), request, who)
    problems = axis_problems(program, request.inputs)
    if problems:
        raise ExportError(who, "; ".join(problems), _REMEDY)
    files = save(program, request.output, request.inputs, request.outputs)
    known = versions(("torch", "transformers"))
    version = known.pop("torch")
    return exported(request, files, tool="torch.export", version=version, chosen={"versions": known})


def traced(module: Any, request: ExportRequest, who: str) -> Any:
    """Return the `torch.export.ExportedProgram` of a model, its tensors in the order of the request's specs."""
    samples = list(sample_tensors(request).values())
    with foreign_errors(who, ExportError, _REMEDY), ready_to_trace(module):
        return exported_program(flat_module(module, request), samples, request.inputs)
