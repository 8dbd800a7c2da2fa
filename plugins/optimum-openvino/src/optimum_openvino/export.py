"""Conversion of a torch module to OpenVINO IR, by one of three routes.

| route | how | observed (openvino 2026.4, torch 2.13, transformers 5.23) |
|---|---|---|
| `module` | `openvino.convert_model` of the module, by TorchScript tracing | cheapest, converts most models |
| `transformers` | transformers' own exporter, through `torch.export` | corrects causal masks by itself |
| `exported` | `openvino.convert_model` of the exported program | |

The last two refuse a branch on a value; `module` keeps the branch that the samples took, and names the place.
None is right for every model; verification decides which result is used. Weights stay as they are; the precision of
arithmetic is chosen when a session opens. Boolean masks become finite numbers, and the result is trimmed to the
positions that its outputs read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import openvino
import torch

from optimum_core.backend import check_export, exported, foreign_errors, no_options, versions
from optimum_core.backend.tracing import (
    exported_program,
    flat_module,
    graph_inputs,
    graph_outputs,
    ready_to_trace,
    sample_tensors,
    traced_reads,
    value_branches,
)
from optimum_core.errors import ExportError
from optimum_core.types import Artifact, ExportRequest
from optimum_openvino.devices import BACKEND, FORMAT, ROUTES
from optimum_openvino.division import exact_division
from optimum_openvino.interface import fix_axes, name_ports, problems
from optimum_openvino.layers import name_layers, recorded_scopes
from optimum_openvino.masks import finite_masks
from optimum_openvino.runtime import without_telemetry
from optimum_openvino.silencing import kept_logging
from optimum_openvino.softplus import exact_softplus
from optimum_openvino.stateful import make_stateful
from optimum_openvino.storage import save
from optimum_openvino.trimming import trim

Tensors = dict[str, torch.Tensor]
#: The `openvino.Model`, and the places where a value of the samples decided what is exported.
_Made = tuple[Any, tuple[str, ...]]


def export(request: ExportRequest) -> Artifact:
    """Write `openvino_model.xml` and `.bin` by the route that `request.route` names (None: the first).

    Raises:
        OptionError: the route, the format or an option is unknown.
        ExportError: the model cannot be converted by that route, or an axis that has to vary came out fixed.
    """
    route = check_export(request, FORMAT, routes=ROUTES)
    no_options(f"backend '{BACKEND}', export", request.options)
    module = request.source.module()
    with foreign_errors(_who(request, route), ExportError, _REMEDY):
        with ready_to_trace(module), without_telemetry(), kept_logging(), recorded_scopes() as scopes:
            model, branches = _ROUTES[route](module, sample_tensors(request), request)
        name_layers(model, scopes)
    _set_interface(model, request, route)
    finite_masks(model)
    exact_division(model)
    trimmed = trim(model) if request.state is None else 0
    if request.state is not None:
        exact_softplus(model)
        with foreign_errors(_who(request, route), ExportError, _REMEDY, doing="its cache cannot become state"):
            make_stateful(model, request.state)
    known = versions(("openvino", "torch", "transformers"))
    owner, tool = _TOOLS.get(route, ("openvino", "openvino.convert_model"))
    version = known.pop(owner)
    chosen = {
        "route": route,
        "trimmed": trimmed,
        "versions": known,
        **({"branches": list(branches)} if branches else {}),
    }
    return exported(request, save(model, request.output), tool=tool, version=version, chosen=chosen)


def _module(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    inputs = graph_inputs(request)
    shapes = [openvino.PartialShape([-1 if isinstance(axis, str) else axis for axis in s.shape]) for s in inputs]
    flat, examples = flat_module(module, request), tuple(samples.values())
    with traced_reads() as reads, _traced_once():
        model = openvino.convert_model(flat, example_input=examples, input=shapes)
    return model, value_branches(reads, flat, examples)


@contextmanager
def _traced_once() -> Iterator[None]:
    """Keep `torch.jit.trace` from tracing and running the model once more to compare both traces, a quarter of the
    time: what is exported is compared with the eager model."""
    trace: Any = torch.jit.trace
    torch.jit.trace = partial(trace, check_trace=False)
    try:
        yield
    finally:
        torch.jit.trace = trace


def _exported(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    program = exported_program(flat_module(module, request), list(samples.values()), graph_inputs(request))
    return openvino.convert_model(program), ()


def _through_transformers(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    from optimum_openvino.through_transformers import convert

    return convert(module, samples, request), ()


_ROUTES: dict[str, Callable[[Any, Tensors, ExportRequest], _Made]] = {
    "transformers": _through_transformers,
    "module": _module,
    "exported": _exported,
}
_TOOLS = {"transformers": ("transformers", "transformers.exporters")}
_REMEDY = f"another route may do it: {', '.join(ROUTES)}"


def _set_interface(model: Any, request: ExportRequest, route: str) -> None:
    """Name the inputs and outputs, and refuse an interface that differs from the request."""
    who = _who(request, route)
    inputs, outputs = graph_inputs(request), graph_outputs(request)
    for kind, ports, specs in (("inputs", model.inputs, inputs), ("outputs", model.outputs, outputs)):
        if len(ports) != len(specs):
            raise ExportError(who, f"{len(ports)} {kind} came out, not {len(specs)}", _REMEDY)
    name_ports(model, inputs, outputs)
    with foreign_errors(who, ExportError, _REMEDY, doing="its axes cannot be fixed as asked"):
        fix_axes(model, inputs)
    found = problems(model, inputs, outputs)
    if found:
        raise ExportError(who, "; ".join(found), _REMEDY)


def _who(request: ExportRequest, route: str) -> str:
    return f"backend '{BACKEND}', export of {request.source.name} by route {route!r}"
