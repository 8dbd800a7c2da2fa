"""Reading of an encoder and a stateful decoder that optimum-intel wrote.

Its decoder makes the keys and values of the attention to the encoder in its first call, and keeps them as variables
beside its own. Here they are a part of their own, cut out of the decoder: rows can then be exchanged and forked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.backend import generator_behind
from optimum_core.errors import ArtifactError
from optimum_core.types import Artifact, TensorSpec
from optimum_core.types.state import CROSS, DECODER, ENCODER, ENCODER_HIDDEN, ENCODER_MASK, HIDDEN
from optimum_openvino.adoption import ORIGINAL, VARIABLE, interface_of, keeps_state, select_logits, state_of, step_of
from optimum_openvino.devices import FORMAT
from optimum_openvino.held import precision_of
from optimum_openvino.release import KEPT
from optimum_openvino.runtime import core
from optimum_openvino.stateful import ROWS, bound_masks
from optimum_openvino.storage import save

_IDS, _MASK, _PLACE = "input_ids", "attention_mask", "cache_position"
#: Names of the decoder's mask, where it has one.
_MASKS = ("decoder_attention_mask",)


def join(decoder: Path, encoder: Path, output: Path, who: str) -> Artifact:
    """Write encoder, cross attention and decoder into `output`, and return them as a generative artifact.

    Raises:
        ArtifactError: their inputs, outputs or states are not those of an encoder and a decoder.
    """
    if not keeps_state(core().read_model(decoder)):
        why = f"{decoder.name} keeps no cache, so that nothing here generates with it (optimum-intel: use_cache=False)"
        raise ArtifactError(who, why, ORIGINAL)
    first = _written(core().read_model(encoder), encoder, output / ENCODER, who)
    if HIDDEN not in (names := [spec.name for spec in first.outputs]):
        raise ArtifactError(who, f"its encoder gives {', '.join(names)}, and no {HIDDEN}", ORIGINAL)
    first = replace(first, inputs=tuple(_defaulted(spec) for spec in first.inputs))
    cross = _written(_cross(core().read_model(decoder)), decoder, output / CROSS, who)
    return generator_behind(first, cross, _decoder(core().read_model(decoder), decoder, output / DECODER, who), output)


def _written(model: Any, graph: Path, folder: Path, who: str) -> Artifact:
    folder.mkdir()
    inputs, outputs = interface_of(model, who)
    return Artifact(
        format=FORMAT, path=folder, precision=precision_of(model, who), files=save(model, folder),
        inputs=inputs, outputs=outputs, steps=(step_of(graph),),
    )  # fmt: skip


def _defaulted(spec: TensorSpec) -> TensorSpec:
    return replace(spec, default="ones") if spec.name == _MASK else spec


def _kept_of_encoder(model: Any) -> list[Any]:
    """Return the operations that read what the decoder keeps of the encoder's output, in the order of their names."""
    reads = [operation for operation in model.get_ops() if operation.get_type_name() == "ReadValue"]
    others = [operation for operation in reads if VARIABLE.search(operation.get_variable_id()) is None]
    return sorted(others, key=lambda operation: str(operation.get_variable_id()))


def _name(index: int) -> str:
    return f"{CROSS}.{index}"


def _cross(model: Any) -> Any:
    """Return the model of what the decoder keeps of the encoder's output."""
    import openvino
    from openvino import opset13 as ops

    kept = _kept_of_encoder(model)
    for read in kept:  # one may be made of another, such as the encoder's output itself
        for reader in read.output(0).get_target_inputs():
            reader.replace_source_output(read.input_value(0))
    results = []
    for index, read in enumerate(kept):
        source = read.input_value(0)
        if source.get_node().get_type_name() == "Parameter":
            source = _copied(source).output(0)
        source.get_tensor().set_names({_name(index)})
        results.append(ops.result(source))
    return openvino.Model(results, [model.input(ENCODER_HIDDEN).get_node()], CROSS)


def _copied(source: Any) -> Any:
    """Return an operation that copies an input, so that it and its copy have names of their own."""
    from openvino import opset13 as ops

    zero, one = ops.constant(np.int64(0)), ops.constant(np.int64(1))
    rows = ops.gather(ops.shape_of(source, output_type="i64"), zero, zero)
    return ops.gather(source, ops.range(zero, rows, one, "i64"), zero)


def _decoder(model: Any, graph: Path, folder: Path, who: str) -> Artifact:
    """Write the decoder, which takes what it kept of the encoder's output."""
    kept = _take(model)
    _count_places(model)
    reads_mask = _name_mask(model)
    model.validate_nodes_and_infer_types()
    inputs, outputs = interface_of(model, who)
    known = {_IDS, _MASK, ENCODER_MASK, ROWS, *kept}
    if unknown := [spec.name for spec in inputs if spec.name not in known]:
        why = f"its decoder takes {', '.join(unknown)} beside ids, masks and the encoder's output"
        raise ArtifactError(who, why, ORIGINAL)
    if [spec.name for spec in outputs] != ["logits"] or len(outputs[0].shape) != 3:
        raise ArtifactError(who, "its decoder does not give logits by position and token alone", ORIGINAL)
    state, vocabulary = state_of(model, who), outputs[0].shape[-1]
    select_logits(model)
    bound_masks(model)
    model.validate_nodes_and_infer_types()
    made = _written(model, graph, folder, who)
    specs = {spec.name: spec for spec in inputs}
    ids = replace(specs[_IDS], shape=("batch", "sequence"), least=0)
    if ids.greatest is None and isinstance(vocabulary, int):
        ids = replace(ids, greatest=vocabulary - 1)
    mask = TensorSpec(name=_MASK, dtype="int64", shape=("batch", "total"), default="ones")
    return replace(
        made,
        inputs=(
            ids,
            mask if reads_mask else replace(mask, least=1),
            *(specs[name] for name in (ENCODER_MASK, *kept) if name in specs),
            TensorSpec(name=KEPT, dtype="int64", shape=("kept",)),
        ),
        outputs=(replace(outputs[0], shape=("batch", "kept", vocabulary)),),
        state=state,
    )


def _take(model: Any) -> list[str]:
    """Replace what the decoder keeps of the encoder's output by inputs; return their names."""
    from openvino import opset13 as ops

    names = []
    for index, read in enumerate(_kept_of_encoder(model)):
        variable = read.get_variable_id()
        given = ops.parameter(read.get_output_partial_shape(0), read.get_output_element_type(0), name=_name(index))
        given.output(0).set_names({_name(index)})
        for reader in read.output(0).get_target_inputs():
            reader.replace_source_output(given.output(0))
        for sink in model.get_sinks():
            if sink.get_variable_id() == variable:
                model.remove_sink(sink)
        model.remove_variable(model.get_variable_by_id(variable))
        model.add_parameters([given])
        names.append(_name(index))
    model.remove_parameter(model.input(ENCODER_HIDDEN).get_node())
    return names


def _count_places(model: Any) -> None:
    """Count positions from the past, where the decoder takes them as an input."""
    from openvino import opset13 as ops

    port = next((port for port in model.inputs if _PLACE in port.get_names()), None)
    if port is None:
        return
    past = next(operation for operation in model.get_ops() if operation.get_type_name() == "ReadValue")
    zero, ids = ops.constant(np.int64(0)), model.input(_IDS)
    length, new = (
        ops.gather(ops.shape_of(value, output_type="i64"), ops.constant(np.int64(axis)), zero)
        for value, axis in ((past.output(0), 2), (ids, 1))
    )
    places = ops.range(length, ops.add(length, new), ops.constant(np.int64(1)), "i64")
    for reader in port.get_target_inputs():
        reader.replace_source_output(places.output(0))
    model.remove_parameter(port.get_node())


def _name_mask(model: Any) -> bool:
    """Give the decoder's mask its name in the contract, or add one that nothing reads; return whether it had one."""
    import openvino
    from openvino import opset13 as ops

    port = next((port for port in model.inputs if port.get_names() & set(_MASKS)), None)
    if port is not None:
        port.get_tensor().set_names({_MASK})
        return True
    mask = ops.parameter(openvino.PartialShape([-1, -1]), openvino.Type.i64, name=_MASK)
    mask.output(0).set_names({_MASK})
    model.add_parameters([mask])
    return False
