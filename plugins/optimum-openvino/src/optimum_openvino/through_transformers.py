"""Adapter to `transformers.exporters`, whose interface changes often: the one module that imports it."""

from __future__ import annotations

from typing import Any

import torch

from optimum_core.backend.tracing import dynamic_shapes, export_limit, named_module, patches_of_imported_models
from optimum_core.types import ExportRequest


def convert(module: Any, samples: dict[str, torch.Tensor], request: ExportRequest) -> Any:
    """Return an `openvino.Model` without state, by transformers' own exporter.

    Raises:
        ExportError: it takes too long.
    """
    from transformers.exporters.exporter_openvino import OpenVINOConfig, OpenVINOExporter

    config = OpenVINOConfig(dynamic=True, dynamic_shapes=dynamic_shapes(request.inputs), stateful=False)
    with export_limit(module, "transformers.exporters", "another route may do it"), patches_of_imported_models():
        model, _ = OpenVINOExporter().export_program(named_module(module, request), dict(samples), config)
    return model
