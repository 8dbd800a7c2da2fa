"""The one module that speaks to `transformers.exporters`, which moves fast."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from optimum_core.models.flat import fixed_arguments
from optimum_core.models.outputs import flatten
from optimum_core.types import ExportRequest


class _Named(torch.nn.Module):
    """The model with only the inputs in question in its signature, and named tensors as output."""

    def __init__(self, module: Any, request: ExportRequest) -> None:
        super().__init__()
        self.module = module
        self._outputs = tuple(spec.name for spec in request.outputs)
        self._arguments = fixed_arguments(module)
        parameters = [inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY) for spec in request.inputs]
        self.__signature__ = inspect.Signature(parameters)

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = flatten(self.module(**inputs, **self._arguments))
        return {name: flat[name] for name in self._outputs}


def convert(module: Any, samples: dict[str, torch.Tensor], request: ExportRequest) -> Any:
    """An `openvino.Model` without state, by transformers' own exporter."""
    from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

    shapes = {spec.name: dict.fromkeys(spec.dynamic_axes, torch.export.Dim.AUTO) for spec in request.inputs}
    config = OpenVINOConfig(dynamic=True, dynamic_shapes=shapes, stateful=False)
    model, _ = OpenVINOExporter().export_program(_Named(module, request), dict(samples), config)
    return model
