"""Adapter to the ONNX Runtime fusions that transformers ships (`transformers.exporters.onnxruntime_fusions`)."""

from __future__ import annotations

from pathlib import Path

from optimum_ort.quiet import quiet
from optimum_ort.storage import DATA, EXTERNAL_TENSOR_BYTES, MODEL

_NOISY = ("transformers", "onnxscript", "onnx_ir", "torch")


def fuse(model: Path, folder: Path, target: str, external: bool) -> None:
    """Fuse `model` for ONNX Runtime's provider `target` ("cpu", "cuda", "dml") and write it into `folder`.

    Raises whatever the two libraries raise; the caller knows the context and translates the error.
    """
    import onnx_ir
    from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

    with quiet(*_NOISY):
        graph = onnx_ir.load(model)
        ir_version = graph.ir_version
        fuse_for_onnxruntime(graph, target)
        graph.ir_version = ir_version  # an onnxruntime older than the onnx package refuses newer ones
        data = DATA if external else None
        onnx_ir.save(graph, folder / MODEL, external_data=data, size_threshold_bytes=EXTERNAL_TENSOR_BYTES)
