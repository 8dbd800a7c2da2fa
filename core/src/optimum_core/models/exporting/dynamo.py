"""ONNX export by `torch.export`: the one module that calls `transformers.exporters`, which changes often."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optimum_core.errors import ExportError, foreign_errors
from optimum_core.models.eager.time_limit import export_limit
from optimum_core.models.exporting import OnnxRequest
from optimum_core.models.exporting.export_speed import patches_of_imported_models, remembered_translations
from optimum_core.models.exporting.tracing import NamedModule, dynamic_shapes, identifier
from optimum_core.models.silence import silence


def write(request: OnnxRequest) -> tuple[str, ...]:
    """Export the model with symbolic shapes and write it, with weights in one file beside it; return no places, since
    a branch on a value is refused.

    Raises:
        ExportError: the model has an operation that cannot be traced or has no ONNX form.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    shapes = {identifier(name): axes for name, axes in dynamic_shapes(request.inputs).items()}
    samples = {identifier(name): tensor for name, tensor in request.samples.items()}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=request.opset)
    named = NamedModule(request.module, list(request.samples), [spec.name for spec in request.outputs])
    who, remedy = "export to ONNX through torch.export", "the other route may do it"
    with export_limit(request.module, who, remedy), foreign_errors(who, ExportError, remedy), _first_causes():
        # Whatever the log level, torch.onnx prints its progress, and torch.export the graph that it could not finish.
        with silence(), patches_of_imported_models(), remembered_translations():
            program, _ = OnnxExporter().export_program(named, samples, config)
        _restore_names(program, request)
        OnnxExporter.save_program(program, request.path)
    return ()


@contextmanager
def _first_causes() -> Iterator[None]:
    """Raise the first cause of a failed conversion, which names the operator: the exporter's own says how to report
    it."""
    from torch.onnx import OnnxExporterError

    try:
        yield
    except OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def _restore_names(program: Any, request: OnnxRequest) -> None:
    """Set the request's names of inputs, outputs and axes: the exporter renames all three by rules of its own."""
    import onnx_ir as ir

    graph = program.graph
    for values, specs in ((graph.inputs, request.inputs), (graph.outputs, request.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            value.shape = ir.Shape(spec.shape)
