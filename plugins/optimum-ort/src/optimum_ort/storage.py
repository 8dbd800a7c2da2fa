"""File names of an ONNX artifact, and the rule for writing weights to a separate file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_core.backend import weight_bytes
from optimum_core.types import Artifact

MODEL = "model.onnx"
DATA = "model.onnx.data"

# A protobuf message is limited to 2 GiB, and far below that, a second file is better: onnxruntime maps it and reads
# what it needs, where it copies weights out of a message. A decoder of 135 million parameters in 4 bits opened in 156
# MiB instead of 199, in 8 bits in 222 instead of 315.
EXTERNAL_ABOVE = 2**26
# Smaller tensors stay in the graph: a mapping of their own would cost more than it saves.
EXTERNAL_TENSOR_BYTES = 1024


def wants_external_data(artifact: Artifact) -> bool:
    """Whether the result made from `artifact` keeps its weights in a second file: it did before, or is too large."""
    if len(artifact.files) > 1:
        return True
    return artifact.main_file.stat().st_size > EXTERNAL_ABOVE


def written_files(folder: Path) -> tuple[str, ...]:
    """Return the artifact's files in `folder`, the graph first."""
    return (MODEL, DATA) if (folder / DATA).is_file() else (MODEL,)


def write_model(model: Any, folder: Path, *, external: bool) -> Path:
    """Write an `onnx.ModelProto` into `folder`, its weights beside it where `external` or too large."""
    import onnx

    path = folder / MODEL
    if external or weight_bytes(model.graph) > EXTERNAL_ABOVE:
        onnx.save_model(model, path, save_as_external_data=True, location=DATA, size_threshold=EXTERNAL_TENSOR_BYTES)
    else:
        onnx.save_model(model, path)
    return path
