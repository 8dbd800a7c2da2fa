"""Export of a quantized graph to ONNX, for runtimes that read QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from optimum_core.types import TensorSpec

MODEL = "model.onnx"
_DATA = "model.onnx.data"
# The opset of core's exporter: it has every operator that transformers' models need.
OPSET = 18
# Protobuf is limited to 2 GB; below that, a separate weights file is only one more file to lose.
_EXTERNAL_ABOVE = 1_500_000_000

Specs = tuple[TensorSpec, ...]


def write(program: Any, folder: Path, inputs: Specs, outputs: Specs) -> tuple[str, ...]:
    """Write a `torch.export.ExportedProgram` by torch's own exporter; return the file names, the graph first."""
    made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, external_data=False)
    assert made is not None
    _name(made.model.graph, inputs, outputs)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    size += sum(value.numel() * value.element_size() for value in program.constants.values() if hasattr(value, "numel"))
    external = size > _EXTERNAL_ABOVE
    made.save(folder / MODEL, external_data=external)
    return (MODEL, _DATA) if external else (MODEL,)


def _name(graph: Any, inputs: Specs, outputs: Specs) -> None:
    """Give inputs, outputs and their axes our names."""
    import onnx_ir as ir

    for values, specs in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            value.shape = ir.Shape(spec.shape)
