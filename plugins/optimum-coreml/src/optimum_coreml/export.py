"""Conversion of a torch module to an ML program, by one of two routes.

| route | how |
|---|---|
| `trace` | `torch.jit.trace`: takes most models, and bakes in what depends on values |
| `export` | `torch.export` |

coremltools converts both, with `shims` for the operators that it lacks. Neither route is right for every model;
verification decides which result is used.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from optimum_core.backend import check_export, exported, foreign_errors, read_options, versions
from optimum_core.backend.tracing import (
    FlatModule,
    exported_program,
    ready_to_trace,
    sample_tensors,
    traced_reads,
    value_branches,
)
from optimum_core.errors import ExportError
from optimum_core.types import Artifact, ExportRequest, TensorSpec
from optimum_coreml import metadata
from optimum_coreml.coremltools_adapter import quiet
from optimum_coreml.devices import BACKEND, FORMAT, PRECISIONS, ROUTES, newest_target
from optimum_coreml.interface import feature_name, problems
from optimum_coreml.options import CoreMlOptions
from optimum_coreml.shapes import bounds_of, core_ml_dtype, tensor_types
from optimum_coreml.storage import LAYERS, save

Tensors = dict[str, torch.Tensor]

REMEDY = f"another route may do it: {', '.join(ROUTES)}"


class CoreMlModule(FlatModule):
    """The flat model with Core ML's types at its interface: 32-bit integers where the specs have booleans."""

    def __init__(self, module: Any, request: ExportRequest) -> None:
        super().__init__(module, [s.name for s in request.inputs], [s.name for s in request.outputs])
        self._flags = tuple(spec.dtype == "bool" for spec in request.inputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [item.bool() if flag else item for item, flag in zip(tensors, self._flags, strict=True)]
        outputs = super().forward(*given)
        return tuple(item.to(torch.int32) if item.dtype == torch.bool else item for item in outputs)


def export(request: ExportRequest) -> Artifact:
    """Write `model.mlpackage` by the route that `request.route` names (None: the first).

    Raises:
        OptionError: the route, the format, the precision or an option is unknown or makes no sense here.
        ExportError: the model cannot be converted by that route.
    """
    route, options = checked(request)
    if options.stateful:
        from optimum_coreml.stateful import export_stateful

        return export_stateful(request, options)
    who = who_exports(request, route)
    module = request.source.module()
    config = getattr(module, "config", None)
    check_types(request, who)
    bounds = bounds_of(request, options, config)
    labels = metadata.class_labels(options, config, request.outputs)
    metadata.check_descriptions(options, request.inputs, request.outputs)
    flat = CoreMlModule(module, request).eval()
    samples = _samples(request)
    with converting(who) as ct:
        described = tensor_types(ct, request, options, bounds)
        with ready_to_trace(module):
            with traced_reads(rounds=route == "trace") as reads:
                program = _ROUTES[route](flat, samples, request)
            # torch.export does not warn: it refuses what a trace would bake in.
            branches = value_branches(reads, flat, tuple(samples.values()))
        model = convert(ct, program, described, request, options)
        layers = layer_names(model, module)
        metadata.describe(model, options, request.inputs, request.outputs, name=request.source.name, task=request.task)
        notes = metadata.notes(labels, layers, LAYERS)
        files = save(model, request.output, notes)
    found = problems(model.get_spec(), request.inputs, request.outputs)
    if found:
        raise ExportError(who, "; ".join(found), REMEDY)
    return written(request, files, options, route, branches)


def checked(request: ExportRequest) -> tuple[str, CoreMlOptions]:
    """Return the route and the options of the request.

    Raises:
        OptionError: one of them, the format or the precision is unknown.
    """
    route = check_export(request, FORMAT, routes=ROUTES, precisions=PRECISIONS)
    return route, read_options(BACKEND, CoreMlOptions, request.options)


def check_types(request: ExportRequest, who: str) -> None:
    """Check that Core ML has a type for every input and output, and a distinct name.

    Raises:
        ExportError: Core ML has no such type, or two names become the same feature name.
    """
    for kind, specs in (("input", request.inputs), ("output", request.outputs)):
        names: dict[str, str] = {}
        for spec in specs:
            try:
                core_ml_dtype(spec.dtype)
            except KeyError as error:
                raise ExportError(who, f"{kind} '{spec.name}' is {spec.dtype}: Core ML has no such", REMEDY) from error
            other = names.setdefault(feature_name(spec.name), spec.name)
            if other != spec.name:
                why = f"{kind}s '{other}' and '{spec.name}' have one name in Core ML"
                raise ExportError(who, why, "name them otherwise in the model")


@contextlib.contextmanager
def converting(who: str) -> Iterator[Any]:
    """Hold back coremltools' output, and raise errors of tracing and conversion as `ExportError`."""
    with foreign_errors(who, ExportError, REMEDY), quiet() as ct:
        yield ct


def convert(
    ct: Any, program: Any, inputs: list[Any], request: ExportRequest, options: CoreMlOptions, **further: Any
) -> Any:
    """Return an `MLModel` that is not loaded into Core ML."""
    from optimum_coreml.fp16 import halving
    from optimum_coreml.shims import shims

    outputs = [_output(ct, spec) for spec in request.outputs]
    with shims(), halving():
        return ct.convert(
            program,
            inputs=inputs,
            outputs=outputs,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target_of(options)),
            compute_precision=ct.precision.FLOAT16 if request.precision == "fp16" else ct.precision.FLOAT32,
            skip_model_load=True,
            **further,
        )


def _output(ct: Any, spec: TensorSpec) -> Any:
    import numpy as np

    # By default, 16-bit programs would have 16-bit outputs. Integers keep their own type.
    dtype = np.float32 if core_ml_dtype(spec.dtype) == "float32" else None
    return ct.TensorType(name=feature_name(spec.name), dtype=dtype)


def target_of(options: CoreMlOptions) -> str:
    """Return the minimum target: the one that was requested, or the newest that this machine runs."""
    if options.minimum_deployment_target is not None:
        return options.minimum_deployment_target
    import platform

    mac = platform.mac_ver()[0]
    return (newest_target("macos", mac) if mac else None) or "iOS18"


def layer_names(model: Any, module: Any) -> dict[str, str]:
    """Return the dotted names of the module's weights, with the names that their constants have in the program."""
    constants = {op.name for op in model._mil_program.functions["main"].operations if op.op_type == "const"}
    aliases: dict[int, list[str]] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(tensor), []).append(name)
    found = {}
    for names in aliases.values():
        plain = [f"module_{name.replace('.', '_')}" for name in names]
        spellings = [f"{prefix}{name}{tail}" for name in plain for prefix in ("", "p_") for tail in ("", "_to_fp16")]
        constant = next((spelling for spelling in spellings if spelling in constants), None)
        if constant is not None:
            found.update(dict.fromkeys(names, constant))
    return found


def _samples(request: ExportRequest) -> Tensors:
    """Return the samples as the traced module gets them: values of boolean inputs in the integers that Core ML uses."""
    drawn = sample_tensors(request).items()
    return {name: item.to(torch.int32) if item.dtype == torch.bool else item for name, item in drawn}


def trace(flat: torch.nn.Module, samples: Tensors, request: ExportRequest) -> Any:
    """Return the `torch.jit.trace` of one call, which also records inside functions with a derivative of their own."""
    record: Any = torch.jit.trace
    with _open_functions():
        return record(flat, tuple(samples.values()), strict=False, check_trace=False)


@contextlib.contextmanager
def _open_functions() -> Iterator[None]:
    """Replace each `autograd.Function` by its forward within the block: a trace would record it as a call of Python."""

    class Context(types.SimpleNamespace):
        def save_for_backward(self, *tensors: Any) -> None: ...

        def mark_non_differentiable(self, *tensors: Any) -> None: ...

    def forward(cls: Any, *args: Any, **kwargs: Any) -> Any:
        apart = cls.setup_context is not torch.autograd.Function.setup_context
        return cls.forward(*(() if apart else (Context(),)), *args, **kwargs)

    function: Any = torch.autograd.Function
    before = function.__dict__["apply"]
    function.apply = classmethod(forward)
    try:
        yield
    finally:
        function.apply = before


def _exported(flat: torch.nn.Module, samples: Tensors, request: ExportRequest) -> Any:
    return exported_program(flat, list(samples.values()), request.inputs).run_decompositions({})


_ROUTES: dict[str, Callable[[torch.nn.Module, Tensors, ExportRequest], Any]] = {"trace": trace, "export": _exported}


def written(
    request: ExportRequest, files: tuple[str, ...], options: CoreMlOptions, route: str, branches: tuple[str, ...] = ()
) -> Artifact:
    """Return the artifact with its `Step`; `branches`: places where a value of the samples decided what is exported."""
    chosen = {
        "route": route,
        "minimum_deployment_target": target_of(options),
        "compute_precision": request.precision,
        "stateful": options.stateful,
        "versions": versions(("torch", "transformers")),
        **({"branches": list(branches)} if branches else {}),
    }
    tool, precision = "coremltools", request.precision
    return exported(request, files, tool=tool, version=versions([tool])[tool], chosen=chosen, precision=precision)


def who_exports(request: ExportRequest, route: str) -> str:
    """Return the exporter's name for error messages."""
    return f"backend '{BACKEND}', export of {request.source.name} by route {route!r}"
