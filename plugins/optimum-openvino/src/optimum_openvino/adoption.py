"""Reading of an IR that another package wrote into an artifact: its inputs and outputs, and the precision it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.backend import generator_of, versions
from optimum_core.errors import ArtifactError
from optimum_core.types import Artifact, LayerState, StateSpec, Step, TensorSpec
from optimum_core.types.state import DECODER
from optimum_core.types.tensors import text_default
from optimum_openvino.devices import BACKEND, FORMAT
from optimum_openvino.held import precision_of
from optimum_openvino.interface import dtype_of
from optimum_openvino.release import KEPT
from optimum_openvino.runtime import core
from optimum_openvino.stateful import ROWS, bound_masks
from optimum_openvino.storage import save

#: Tensors of transformers' models whose second axis is the text's.
_TEXT = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "last_hidden_state", "token_embeddings"}
)
#: Inputs of a decoder beside the selection of rows, in their usual order.
_OWN = ("input_ids", "attention_mask", "position_ids")
VARIABLE = re.compile(r"past_key_values\.(\d+)\.(?:decoder\.)?(key|value)")
#: Of a model in two: the part with the cache, and the one before it.
DECODER_NAME, ENCODER_NAME = "openvino_decoder_model.xml", "openvino_encoder_model.xml"
ORIGINAL = "accelerate the checkpoint that it was made from"


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Write the IR into `output` with its weights unchanged, and return it as an artifact.

    Raises:
        ArtifactError: it is one of several parts of a model, or has an interface that is not known here.
    """
    who = f"model {str(files[0])!r}"
    if [path.name for path in files[::2]] == [DECODER_NAME, ENCODER_NAME]:
        from optimum_openvino.adopted_pairs import join

        return join(files[0], files[2], output, who)
    if len(graphs := files[::2]) > 1:
        why = f"{', '.join(path.name for path in graphs)} are parts of one model, which are not joined here"
        raise ArtifactError(who, why, ORIGINAL)
    model = core().read_model(files[0])
    step = step_of(files[0])
    if keeps_state(model):
        return generator_of(_decoder(model, output, step, who), output)
    inputs, outputs = interface_of(model, who)
    return Artifact(
        format=FORMAT, path=output, precision=precision_of(model, who), files=save(model, output),
        inputs=tuple(replace(spec, default=text_default(spec.name, len(spec.shape))) for spec in inputs),
        outputs=outputs, steps=(step,),
    )  # fmt: skip


def keeps_state(model: Any) -> bool:
    """Whether a model keeps something from one call to the next."""
    return any(operation.get_type_name() == "ReadValue" for operation in model.get_ops())


def step_of(graph: Path) -> Step:
    """Return the record of a graph that was given."""
    return Step(
        hook="load_session", backend=BACKEND, tool="openvino", version=versions(["openvino"])["openvino"],
        options={"given": graph.name},
    )  # fmt: skip


def _decoder(model: Any, output: Path, step: Step, who: str) -> Artifact:
    """Write a decoder that keeps keys and values as variables, with an input that selects the positions of its logits.

    Raises:
        ArtifactError: it is no decoder of ids, or keeps something other than keys and values by head.
    """
    inputs, outputs = interface_of(model, who)
    own = [spec for spec in inputs if spec.name != ROWS]
    names = [spec.name for spec in own]
    if len(own) == len(inputs) or not {"input_ids", "attention_mask"} <= set(names) <= set(_OWN):
        why = f"it takes {', '.join(spec.name for spec in inputs)}, and not ids, mask, positions and {ROWS}"
        raise ArtifactError(who, why, ORIGINAL)
    if [spec.name for spec in outputs] != ["logits"] or len(outputs[0].shape) != 3:
        raise ArtifactError(who, "it does not give logits by position and token alone", ORIGINAL)
    state = state_of(model, who)
    select_logits(model)
    bound_masks(model)
    model.validate_nodes_and_infer_types()
    (folder := output / DECODER).mkdir()
    kept = TensorSpec(name=KEPT, dtype="int64", shape=("kept",))
    return Artifact(
        format=FORMAT,
        path=folder,
        precision=precision_of(model, who),
        files=save(model, folder),
        inputs=(*(_own(spec, outputs[0]) for spec in sorted(own, key=lambda spec: _OWN.index(spec.name))), kept),
        outputs=(replace(outputs[0], shape=("batch", "kept", outputs[0].shape[-1])),),
        state=state,
        steps=(step,),
    )


def _own(spec: TensorSpec, logits: TensorSpec) -> TensorSpec:
    """Return an input of the decoder as the contract has it; ids are those that there are logits of."""
    if spec.name == "attention_mask":
        return replace(spec, shape=("batch", "total"), default="ones")
    if spec.name == "position_ids":
        return replace(spec, shape=("batch", "sequence"), default="places")
    size = logits.shape[-1]
    greatest = spec.greatest if spec.greatest is not None else size - 1 if isinstance(size, int) else None
    return replace(spec, shape=("batch", "sequence"), least=0, greatest=greatest)


def state_of(model: Any, who: str) -> StateSpec:
    """Return the keys and values that a model keeps, in the order of their layers."""
    found: dict[int, dict[str, tuple[int, int]]] = {}
    for operation in model.get_ops():
        if operation.get_type_name() != "ReadValue":
            continue
        shape, named = operation.get_output_partial_shape(0), VARIABLE.search(operation.get_variable_id())
        heads = shape[1].is_static and shape[3].is_static if shape.rank.is_static and len(shape) == 4 else False
        if named is None or not heads:
            why = f"it keeps {operation.get_variable_id()!r} of shape {shape}, and not keys and values by head"
            raise ArtifactError(who, why, ORIGINAL)
        found.setdefault(int(named[1]), {})[named[2]] = shape[1].get_length(), shape[3].get_length()
    layers = []
    for _, sizes in sorted(found.items()):
        if set(sizes) != {"key", "value"}:
            raise ArtifactError(who, "some of its layers keep keys or values alone", ORIGINAL)
        (heads, size), (_, width) = sizes["key"], sizes["value"]
        layers.append(LayerState(heads=heads, head_size=size, value_size=width if width != size else None))
    return StateSpec(layers=tuple(layers), crop=True, reorder=True, fork=True)


def select_logits(model: Any) -> None:
    """Give logits of the positions that a new input names."""
    from openvino import PartialShape, Type
    from openvino import opset13 as ops

    kept = ops.parameter(name=KEPT, dtype=Type.i64, shape=PartialShape([-1]))
    kept.output(0).get_tensor().set_names({KEPT})
    model.add_parameters([kept])
    (result,) = (port.get_node() for port in model.outputs)
    logits = result.input_value(0)
    logits.get_tensor().set_names(set())
    chosen = ops.gather(logits, kept, ops.constant(np.int64(1)))
    chosen.output(0).get_tensor().set_names({"logits"})
    result.input(0).replace_source_output(chosen.output(0))


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
