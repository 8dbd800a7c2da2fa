"""ONNX with operators outside the standard, which runtimes fuse: nothing here evaluates it, so it opens as it is.

Such are the graphs that ONNX Runtime's own optimizer writes, with operators of the domain com.microsoft.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimum_core.errors import ArtifactError, SourceError
from optimum_core.models.backends.onnx_files.divisions import guard_divisions
from optimum_core.models.sources.onnx_graph import (
    copy_external,
    external_files,
    id_range,
    precision_of,
    read_graph,
)
from optimum_core.packages import versions
from optimum_core.types import Artifact, ForeignFormat, Step, TensorSpec
from optimum_core.types.tensors import text_default

FORMAT = "onnx"
_NAME = "model.onnx"
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
#: Tensors of transformers' models whose second axis is the text's.
_TEXT = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "last_hidden_state", "token_embeddings"}
)


def find(path: Path) -> tuple[Path, ...]:
    """Return a graph with operators outside the standard, and the files of its weights; nothing for other graphs."""
    graph = path if path.is_file() else _alone(path)
    if graph is None or graph.suffix != ".onnx":
        return ()
    try:
        proto = read_graph(graph)
    except SourceError:  # a damaged file is refused where it is opened
        return ()
    return (graph, *external_files(proto, graph)) if _domains(proto) else ()


def _alone(directory: Path) -> Path | None:
    """Return the graph of a directory that has the usual name, or else the only one; None: there is none."""
    found = sorted((*directory.glob("*.onnx"), *directory.glob(f"{FORMAT}/*.onnx")))
    usual = [graph for graph in found if graph.name == _NAME]
    return usual[0] if usual else found[0] if len(found) == 1 else None


def _domains(proto: Any) -> set[str]:
    """Return the domains outside the standard of a graph's operators, except those of the file's own functions."""
    own = {function.domain for function in proto.functions}
    bodies = (proto.graph.node, *(function.node for function in proto.functions))
    return {node.domain for body in bodies for node in _nested(body)} - _STANDARD - own


def _nested(nodes: Any) -> Iterator[Any]:
    """Return nodes with those of the graphs of their branches."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nested(attribute.g.node)


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Copy the graph with its weights, and return it as an artifact.

    Raises:
        ArtifactError: an input or output has no stated type and axes.
    """
    proto = read_graph(files[0])
    shutil.copyfile(files[0], output / _NAME)
    weights = copy_external(files[1:], files[0], output)
    guard_divisions(output / _NAME)
    who = f"model {str(files[0])!r}"
    constants = {tensor.name for tensor in proto.graph.initializer}
    step = Step(
        hook="export", backend=FORMAT, tool="onnx", version=versions(["onnx"])["onnx"],
        options={"given": files[0].name},
    )  # fmt: skip
    return Artifact(
        format=FORMAT,
        path=output,
        files=(_NAME, *weights),
        inputs=tuple(_spec(value, proto, who) for value in proto.graph.input if value.name not in constants),
        outputs=tuple(_spec(value, proto, who) for value in proto.graph.output),
        precision=precision_of(proto),
        steps=(step,),
    )


def _spec(value: Any, proto: Any, who: str) -> TensorSpec:
    """Return the description of an input or output, whose ids are those of the tables that they look up.

    Raises:
        ArtifactError: the file does not state its type and axes.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        raise ArtifactError(who, f"{value.name!r} has no stated type and axes", "export it with its shapes stated")
    dtype = tensor_dtype_to_np_dtype(tensor.elem_type).name
    axes = tuple(
        axis.dim_value or _axis(value.name, index, axis.dim_param) for index, axis in enumerate(tensor.shape.dim)
    )
    least, greatest = id_range(proto, value.name, dtype)
    return TensorSpec(
        name=value.name, dtype=dtype, shape=axes, least=least, greatest=greatest,
        default=text_default(value.name, len(axes)),
    )  # fmt: skip


def _axis(name: str, index: int, stated: str) -> str:
    if index == 0:
        return "batch"
    return "sequence" if index == 1 and name in _TEXT else stated or f"{name}_{index}"


EXTENDED = ForeignFormat(
    name="ONNX with operators outside the standard, which nothing here evaluates", format=FORMAT, find=find, adopt=adopt
)
