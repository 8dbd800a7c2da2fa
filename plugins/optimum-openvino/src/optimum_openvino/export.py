"""From a torch module to OpenVINO IR, by one of three ways.

| route | how | what was seen (openvino 2026.4, torch 2.13, transformers 5.23) |
|---|---|---|
| `transformers` | transformers' own exporter, through `torch.export` | mends what OpenVINO gets wrong in causal masks |
| `module` | `openvino.convert_model` of the module, by TorchScript tracing | quickest, takes most models |
| `exported` | `openvino.convert_model` of the exported program | |

The first and the last refuse a branch on a value; `module` keeps the side that the samples took, and names the place.
None is right for every model: which one is, verification decides. Weights stay as they are; arithmetic is chosen when
a session opens. What comes out is trimmed to what its outputs ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import openvino
import torch

from optimum_core.errors import ExportError, OptionError
from optimum_core.models.flat import FlatModule, export_ready
from optimum_core.models.hub import quiet
from optimum_core.models.value_branches import traced_reads, value_branches
from optimum_core.types import Artifact, ExportRequest, Step
from optimum_openvino.devices import BACKEND, FORMAT, ROUTES
from optimum_openvino.interface import fix_axes, name_ports, problems
from optimum_openvino.layers import name_layers, recorded_scopes
from optimum_openvino.runtime import without_telemetry
from optimum_openvino.storage import save
from optimum_openvino.trimming import trim

Tensors = dict[str, torch.Tensor]
#: The `openvino.Model`, and the places where a value of the samples decided what is in it.
_Made = tuple[Any, tuple[str, ...]]


def export(request: ExportRequest) -> Artifact:
    """Write `openvino_model.xml` and `.bin` by the way that `request.route` names (None: the first).

    Raises:
        OptionError: the route, the format or an option is unknown.
        ExportError: the model cannot be converted that way, or an axis that is to vary came out fixed.
    """
    route = _checked_route(request)
    module = request.source.module()
    samples = {spec.name: torch.as_tensor(request.samples[spec.name]) for spec in request.inputs}
    try:
        with quiet(), without_telemetry(), recorded_scopes() as scopes, export_ready(module), torch.no_grad():
            model, branches = _ROUTES[route](module, samples, request)
        name_layers(model, scopes)
    except Exception as error:  # converters fail on models they do not know, in any way they like
        raise ExportError(_who(request, route), f"{type(error).__name__}: {error}", _REMEDY) from error
    _set_interface(model, request, route)
    trimmed = trim(model)
    return Artifact(
        format=FORMAT,
        path=request.output,
        files=save(model, request.output),
        inputs=request.inputs,
        outputs=request.outputs,
        steps=(_step(route, trimmed, branches),),
    )


def _checked_route(request: ExportRequest) -> str:
    who, route = f"backend '{BACKEND}'", request.route or ROUTES[0]
    if route not in _ROUTES:
        raise OptionError(who, f"unknown route {route!r}", f"use one of: {', '.join(ROUTES)}")
    if request.format != FORMAT:
        raise OptionError(who, f"it does not export {request.format!r}", f"ask for {FORMAT!r}")
    if request.options:
        raise OptionError(who, f"unknown export options: {', '.join(request.options)}", "leave them out")
    return route


def _module(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    shapes = [
        openvino.PartialShape([-1 if isinstance(axis, str) else axis for axis in s.shape]) for s in request.inputs
    ]
    flat, examples = _flat(module, request), tuple(samples.values())
    with traced_reads() as reads:
        model = openvino.convert_model(flat, example_input=examples, input=shapes)
    return model, value_branches(reads, flat, examples)


def _exported(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    shapes = tuple(dict.fromkeys(spec.dynamic_axes, torch.export.Dim.AUTO) for spec in request.inputs)
    arguments = tuple(samples.values())
    program = torch.export.export(_flat(module, request), arguments, dynamic_shapes=(shapes,), strict=False)
    return openvino.convert_model(program), ()


def _through_transformers(module: Any, samples: Tensors, request: ExportRequest) -> _Made:
    from optimum_openvino.through_transformers import convert

    return convert(module, samples, request), ()


_ROUTES: dict[str, Callable[[Any, Tensors, ExportRequest], _Made]] = {
    "transformers": _through_transformers,
    "module": _module,
    "exported": _exported,
}
_REMEDY = f"another route may do it: {', '.join(ROUTES)}"


def _flat(module: Any, request: ExportRequest) -> FlatModule:
    return FlatModule(module, [spec.name for spec in request.inputs], [spec.name for spec in request.outputs]).eval()


def _set_interface(model: Any, request: ExportRequest, route: str) -> None:
    """Name what goes in and out, and refuse what is not what was asked for."""
    who = _who(request, route)
    for kind, ports, specs in (("inputs", model.inputs, request.inputs), ("outputs", model.outputs, request.outputs)):
        if len(ports) != len(specs):
            raise ExportError(who, f"{len(ports)} {kind} came out, not {len(specs)}", _REMEDY)
        name_ports(ports, specs)
    try:
        fix_axes(model, request.inputs)
    except RuntimeError as error:
        raise ExportError(who, f"its axes cannot be fixed as asked: {error}", _REMEDY) from error
    found = problems(model, request.inputs, request.outputs)
    if found:
        raise ExportError(who, "; ".join(found), _REMEDY)


def _step(route: str, trimmed: int, branches: tuple[str, ...]) -> Step:
    tool = "transformers" if route == "transformers" else "openvino"
    versions = {name: version(name) for name in ("openvino", "torch", "transformers")}
    decided = {"branches": list(branches)} if branches else {}
    return Step(
        hook="export",
        backend=BACKEND,
        tool="transformers.exporters" if route == "transformers" else "openvino.convert_model",
        version=versions.pop(tool),
        options={"route": route, "trimmed": trimmed, "versions": versions, **decided},
    )


def _who(request: ExportRequest, route: str) -> str:
    return f"backend '{BACKEND}', export of {request.source.name} by route {route!r}"
