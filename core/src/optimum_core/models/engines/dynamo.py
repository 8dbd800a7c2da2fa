"""ONNX through `torch.export`: the one module that speaks to `transformers.exporters`, which moves fast."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from optimum_core.errors import ExportError
from optimum_core.models.engines import EngineRequest
from optimum_core.models.flat import fixed_arguments
from optimum_core.models.outputs import flatten
from optimum_core.models.silence import silence


class _Named(torch.nn.Module):
    """The model with only the inputs in question in its signature, and named tensors as output."""

    def __init__(self, request: EngineRequest) -> None:
        super().__init__()
        self.module = request.module
        self._outputs = tuple(spec.name for spec in request.outputs)
        self._arguments = fixed_arguments(request.module)
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in request.samples]
        self.__signature__ = inspect.Signature(parameters)

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = flatten(self.module(**inputs, **self._arguments))
        return {name: flat[name] for name in self._outputs}


def write(request: EngineRequest) -> tuple[str, ...]:
    """Export the model with symbolic shapes and write it, with weights in one file beside it; a branch on a value is
    refused, so that there is no place to tell of.

    Raises:
        ExportError: the model has something that cannot be traced or has no ONNX form.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    shapes = {spec.name: dict.fromkeys(spec.dynamic_axes, torch.export.Dim.AUTO) for spec in request.inputs}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=request.opset)
    try:
        # Whatever the log level, torch.onnx prints its progress, and torch.export the graph that it could not finish.
        with silence():
            program, _ = OnnxExporter().export_program(_Named(request), dict(request.samples), config)
        _restore_names(program, request)
        OnnxExporter.save_program(program, request.path)
    except Exception as error:
        raise ExportError(
            "export to ONNX through torch.export", f"{type(error).__name__}: {error}", "the other engine may do it"
        ) from error
    return ()


def _restore_names(program: Any, request: EngineRequest) -> None:
    """Give inputs, outputs and their axes our names: the exporter has rules of its own for all three."""
    import onnx_ir as ir

    graph = program.graph
    for values, specs in ((graph.inputs, request.inputs), (graph.outputs, request.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            value.shape = ir.Shape(spec.shape)
