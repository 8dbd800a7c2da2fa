"""Preparation of a graph for quantization: known shapes, folded constants, no operators that undo each other.

These are the three steps that onnxruntime recommends. Each may refuse a graph: the others are still done, and the
reason is kept for the artifact's `Step`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimum_core.backend import foreign_errors
from optimum_core.errors import OptionError, SessionError, is_momentary
from optimum_core.types import Artifact
from optimum_ort.devices import CPU
from optimum_ort.layers import Kept, kept_layers, name_nodes
from optimum_ort.options import OrtOptions
from optimum_ort.storage import DATA, EXTERNAL_TENSOR_BYTES, write_model
from optimum_ort.symbolic_shapes import infer_shapes

# The first opset with a scale for each channel.
_LEAST_OPSET = 13


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A graph that is ready for quantization.

    Attributes:
        path: its file.
        kept: the nodes that stay in float.
        skipped: steps of the preparation that refused the graph, with the reason.
    """

    path: Path
    kept: Kept
    skipped: dict[str, str]


def prepare(
    artifact: Artifact, exclude: tuple[str, ...], scratch: Path, *, external: bool, who: str, shapes: bool = True
) -> Prepared:
    """Write the artifact's graph, ready to be quantized, under `scratch`.

    Args:
        shapes: infer the shapes of all values, which takes most of the time; weights have theirs without.

    Raises:
        SessionError: the file is no ONNX model.
        OptionError: a name in `exclude` matches nothing, or the graph is quantized already or too old.
    """
    model = _read(artifact.main_file, who)
    name_nodes(model.graph)
    kept = kept_layers(model.graph, exclude, who, is_decoder=artifact.state is not None)
    path = write_model(model, _folder(scratch, "named"), external=external)
    del model
    skipped = {}
    for name, step in _STEPS.items() if shapes else (_FIRST,):
        try:
            path = step(path, _folder(scratch, name), external)
        except Exception as error:  # each step fails on unsupported graphs with arbitrary exceptions
            if is_momentary(error):  # a later attempt would not skip it, and the result would differ
                raise
            skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return Prepared(path=path, kept=kept, skipped=skipped)


def _read(path: Path, who: str) -> Any:
    import onnx

    if not path.is_file():
        raise SessionError(who, "the file does not exist", "export the model again, or correct the path")
    with foreign_errors(who, SessionError, "export the model again", doing="it is no complete ONNX model"):
        model = onnx.load(path)
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if opset < _LEAST_OPSET:
        raise OptionError(who, f"it is of opset {opset}", f"export it with opset {_LEAST_OPSET} or newer")
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise OptionError(who, "it is quantized already", "quantize the float model")
    return model


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def _symbolic_shapes(path: Path, folder: Path, external: bool) -> Path:
    import onnx

    return write_model(infer_shapes(onnx.load(path)), folder, external=external)


def _basic_optimization(path: Path, folder: Path, external: bool) -> Path:
    from optimum_ort.runtime import open_session, session_options

    options = OrtOptions(graph_optimization_level="basic")
    made = session_options(options, CPU, 0)
    written = folder / path.name
    made.optimized_model_filepath = str(written)
    if external:
        made.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
        size = str(EXTERNAL_TENSOR_BYTES)
        made.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", size)
    open_session(path, made, CPU, 0, options)
    return written


def _onnx_shapes(path: Path, folder: Path, external: bool) -> Path:
    import onnx

    # By path, because a model in memory may not exceed 2 GiB; the weights stay where they are, and are read from there.
    inferred = path.parent / f"inferred-{path.name}"
    onnx.shape_inference.infer_shapes_path(path, inferred)
    return write_model(onnx.load(inferred), folder, external=external)


_STEPS: dict[str, Callable[[Path, Path, bool], Path]] = {
    "optimization": _basic_optimization,
    "symbolic shape inference": _symbolic_shapes,
    "shape inference": _onnx_shapes,
}
_FIRST = next(iter(_STEPS.items()))
