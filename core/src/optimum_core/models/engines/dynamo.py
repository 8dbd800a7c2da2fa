"""ONNX through `torch.export`: the one module that speaks to `transformers.exporters`, which moves fast."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from optimum_core.errors import ExportError
from optimum_core.models.engines import EngineRequest
from optimum_core.models.flat import fixed_arguments
from optimum_core.models.outputs import flatten


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


def write(request: EngineRequest) -> None:
    """Export the model with symbolic shapes and write it, with weights in one file beside it.

    Raises:
        ExportError: the model has something that cannot be traced or has no ONNX form.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    shapes = {spec.name: {axis: torch.export.Dim.AUTO for axis in spec.dynamic_axes} for spec in request.inputs}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=request.opset)
    try:
        program, _ = OnnxExporter().export_program(_Named(request), dict(request.samples), config)
        _restore_names(program, request)
        OnnxExporter.save_program(program, request.path)
    except Exception as error:
        raise ExportError(
            "export to ONNX through torch.export", f"{type(error).__name__}: {error}", "pass verify's other engine"
        ) from error


def _restore_names(program: Any, request: EngineRequest) -> None:
    """Give inputs and outputs of the graph our names, in our order: the exporter has rules of its own for both."""
    graph = program.graph
    for value, spec in zip(graph.inputs, request.inputs, strict=True):
        value.name = spec.name
    for value, spec in zip(graph.outputs, request.outputs, strict=True):
        value.name = spec.name
