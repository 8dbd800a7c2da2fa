"""File names of an ONNX artifact, and the rule for writing weights to a separate file."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

from optimum_core.backend import put_beside, weight_bytes
from optimum_core.types import Artifact

MODEL = "model.onnx"
DATA = "model.onnx.data"

# A protobuf message is limited to 2 GiB, and far below that, a second file is better: onnxruntime maps it and reads
# what it needs, where it copies weights out of a message. A decoder of 135 million parameters in 4 bits opened in 156
# MiB instead of 199, in 8 bits in 222 instead of 315.
EXTERNAL_ABOVE = 2**26
# Smaller tensors stay in the graph: a mapping of their own would cost more than it saves.
EXTERNAL_TENSOR_BYTES = 1024
# Larger external weights are left in their file where a graph is changed.
_READ_BYTES = 2**20


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
        put_beside(model.graph, DATA, EXTERNAL_TENSOR_BYTES)
        (folder / DATA).unlink(missing_ok=True)  # weights are written after what a file holds
    onnx.save_model(model, path)
    return path


def read_nodes(path: Path) -> Any:
    """Return an `onnx.ModelProto` whose large external weights stay in their file."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if uses_external_data(tensor) and (ExternalDataInfo(tensor).length or _READ_BYTES) < _READ_BYTES:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def write_again(model: Any, folder: Path, beside: Path, *, external: bool) -> Path:
    """Write an `onnx.ModelProto` from `read_nodes` into `folder`; where `external`, new weights into a file of their
    own, beside a copy of those in the folder `beside` that hold the others.

    No links: onnx (1.23) reads no external data that has several, so that the source would be unreadable meanwhile.
    """
    import onnx

    if not external:
        return write_model(model, folder, external=False)
    places = (item for tensor in model.graph.initializer for item in tensor.external_data if item.key == "location")
    names = {item.value for item in places}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(beside / name, folder / name)
    free = (name for number in itertools.count() if (name := f"changed-{number}.data") not in names)
    put_beside(model.graph, next(free), EXTERNAL_TENSOR_BYTES)
    onnx.save_model(model, folder / MODEL)
    return folder / MODEL
