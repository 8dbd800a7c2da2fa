"""Reading of an IR that another package wrote into an artifact: its inputs and outputs, and the precision it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optimum_core.backend import versions
from optimum_core.errors import ArtifactError
from optimum_core.types import Artifact, Step, TensorSpec
from optimum_openvino.devices import BACKEND, FORMAT
from optimum_openvino.held import precision_of
from optimum_openvino.interface import dtype_of
from optimum_openvino.runtime import core
from optimum_openvino.storage import save

#: Tensors of transformers' models whose second axis is the text's.
_TEXT = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "last_hidden_state", "token_embeddings"}
)
_ORIGINAL = "accelerate the checkpoint that it was made from"


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Write the IR into `output` with its weights unchanged, and return it as an artifact.

    Raises:
        ArtifactError: it is one of several parts of a model, keeps a state, or has an interface that is not known here.
    """
    who = f"model {str(files[0])!r}"
    if len(graphs := files[::2]) > 1:
        why = f"{', '.join(path.name for path in graphs)} are parts of one model, which are not joined here"
        raise ArtifactError(who, why, _ORIGINAL)
    model = core().read_model(files[0])
    if any(operation.get_type_name() == "ReadValue" for operation in model.get_ops()):
        raise ArtifactError(who, "it keeps a cache between calls, as models that generate do", _ORIGINAL)
    inputs, outputs = interface_of(model, who)
    precision = precision_of(model, who)
    step = Step(
        hook="load_session", backend=BACKEND, tool="openvino", version=versions(["openvino"])["openvino"],
        options={"given": files[0].name},
    )  # fmt: skip
    return Artifact(
        format=FORMAT, path=output, files=save(model, output), inputs=inputs, outputs=outputs, precision=precision,
        steps=(step,),
    )  # fmt: skip


def interface_of(model: Any, who: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a model; ports without a name get that of their operation.

    Raises:
        ArtifactError: an input is of an unknown rank or type.
    """
    _name(model.inputs, [port.get_node() for port in model.inputs])
    _name(model.outputs, [port.get_node().input_value(0).get_node() for port in model.outputs])
    return tuple(_specs(model.inputs, who)), tuple(_specs(model.outputs, who))


def _name(ports: Sequence[Any], nodes: Sequence[Any]) -> None:
    for port, node in zip(ports, nodes, strict=True):
        if not port.get_names():
            port.get_tensor().set_names({node.get_friendly_name()})


def _specs(ports: Sequence[Any], who: str) -> Iterator[TensorSpec]:
    for port in ports:
        name, shape, dtype = _name_of(port), port.get_partial_shape(), dtype_of(port)
        if shape.rank.is_dynamic or dtype is None:
            lacking = "rank" if dtype is not None else f"type {port.get_element_type().get_type_name()}"
            raise ArtifactError(who, f"{name!r} is of an unknown {lacking}", "convert it with its shapes stated")
        axes = (
            axis.get_length() if axis.is_static else _axis(name, index, len(shape)) for index, axis in enumerate(shape)
        )
        rows = _rows(port) if dtype.startswith("int") else None
        yield TensorSpec(
            name=name, dtype=dtype, shape=tuple(axes), least=None if rows is None else 0,
            greatest=None if rows is None else rows - 1,
        )  # fmt: skip


def _name_of(port: Any) -> str:
    """Return the plainest of a port's names: "input_ids" rather than "input_ids:0" or "42"."""
    return min(map(str, port.get_names()), key=lambda name: (name.isdigit(), len(name), name))


def _axis(name: str, index: int, rank: int) -> str:
    if index == 0:
        return "batch"
    return "sequence" if index == 1 and name in _TEXT and rank <= 3 else f"{name}_{index}"


def _rows(port: Any) -> int | None:
    """Return the number of rows of the smallest table that an input of ids looks up; None: it looks up none."""
    found = []
    readers = list(port.get_target_inputs())
    while readers:
        reader = readers.pop()
        node = reader.get_node()
        if node.get_type_name() == "Convert":
            readers.extend(node.output(0).get_target_inputs())
        elif node.get_type_name() == "Gather" and reader.get_index() == 1:
            rows = node.get_input_partial_shape(0)[0]
            found += [rows.get_length()] if rows.is_static else []
    return min(found, default=None)
