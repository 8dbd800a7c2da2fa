"""Writing of an artifact of ours as optimum-intel reads it: the reverse of `adoption`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import ArtifactError
from optimum_core.types import Artifact
from optimum_core.types.state import CROSS, CROSS_INPUTS, DECODER, ENCODER, ENCODER_HIDDEN, HIDDEN
from optimum_core.types.tensors import TOKENS
from optimum_openvino.runtime import core
from optimum_openvino.storage import GROUP, MODEL

#: The input that selects the positions to give logits of, which other packages do not know.
KEPT = "logits_to_keep"
#: Axes of keys and values.
_ROWS, _SOURCE = 0, 2


def release(artifact: Artifact, output: Path) -> None:
    """Write `openvino_model.xml` with its weights; a decoder then gives the logits of all new positions, and a sentence
    encoder the hidden states of its transformer alone, since pooling is done behind the graph there.

    An encoder and its decoder are two models, of which the decoder makes keys and values of the encoder's output in its
    first call, and keeps them.

    Raises:
        ArtifactError: the encoder gives more than hidden states, or a decoder keeps states of a fixed size.
    """
    for part in artifact.parts.values():
        _require_keys_and_values(part)
    if ENCODER in artifact.parts:
        _release_pair(artifact, output)
        return
    decoder = artifact.parts.get(DECODER)
    model = core().read_model((decoder or artifact).main_file)
    if decoder is not None:
        keep_all_logits(model)
    elif artifact.pools_by_modules:
        model = _transformer_of(model)
    _save(model, output / MODEL)


def _transformer_of(model: Any) -> Any:
    """Return the graph of a sentence encoder up to the vectors of its tokens, with the inputs that these need."""
    import openvino

    port = model.output(TOKENS)
    port.get_tensor().set_names({HIDDEN})
    result = port.get_node()
    needed, behind = {result.get_friendly_name()}, [result]
    while behind:
        for port in behind.pop().input_values():
            node = port.get_node()
            if node.get_friendly_name() not in needed:
                needed.add(node.get_friendly_name())
                behind.append(node)
    taken = [node for node in model.get_parameters() if node.get_friendly_name() in needed]
    return openvino.Model([result], taken, model.get_friendly_name())


def _require_keys_and_values(decoder: Artifact) -> None:
    if decoder.state is not None and any(layer.has_fixed_states for layer in decoder.state.layers):
        why = "its layers keep states of a fixed size, and that layout has names for keys and values alone"
        raise ArtifactError("layout 'optimum'", why, "save it without layout=, and open it by load()")


def _save(model: Any, place: Path) -> None:
    import openvino

    if GROUP in model.rt_info:  # optimum-intel takes a group of this name for its own, and reads versions in it
        del model.rt_info[GROUP]
    openvino.save_model(model, place, compress_to_fp16=False)


def _release_pair(artifact: Artifact, output: Path) -> None:
    encoder, cross, decoder = (artifact.parts[name] for name in (ENCODER, CROSS, DECODER))
    if (given := [spec.name for spec in encoder.outputs]) != [HIDDEN]:
        why = f"its encoder gives {', '.join(given)}, where that layout has {HIDDEN} alone"
        raise ArtifactError("layout 'optimum'", why, "save it without layout=, and open it by load()")
    _save(core().read_model(encoder.main_file), output / "openvino_encoder_model.xml")
    model = core().read_model(decoder.main_file)
    keep_all_logits(model)
    _count(model)
    _save(_joined(model, core().read_model(cross.main_file)), output / "openvino_decoder_model.xml")


def _joined(decoder: Any, cross: Any) -> Any:
    """Return the decoder that makes the keys and values of the part "cross" in its first call, and keeps them."""
    import openvino
    from openvino import opset13 as ops

    kept = []
    for port in cross.outputs:
        (name,) = (found for found in port.get_names() if found.startswith(CROSS_INPUTS))
        made, taken = port.get_node().input_value(0), decoder.input(name)
        shape = taken.get_partial_shape()
        shape[_ROWS] = shape[_SOURCE] = -1  # their classes reshape the inputs to any lengths
        read = ops.read_value(made, f"encoder.{name}", taken.get_element_type(), shape)
        kept.append(ops.assign(read, f"encoder.{name}"))
        for reader in taken.get_node().output(0).get_target_inputs():
            reader.replace_source_output(read.output(0))
        decoder.remove_parameter(taken.get_node())
    hidden = next(port for port in cross.inputs if ENCODER_HIDDEN in port.get_names()).get_node()
    sinks = [*decoder.get_sinks(), *kept]
    return openvino.Model(decoder.get_results(), sinks, [*decoder.get_parameters(), hidden], "decoder")


def _count(model: Any) -> None:
    """Make the decoder's mask and positions, which optimum-intel does not pass: all is tokens."""
    from openvino import opset13 as ops

    past = next(operation for operation in model.get_ops() if operation.get_type_name() == "ReadValue").output(0)
    zero, one, two = (ops.constant(np.int64(number)) for number in range(3))
    ids = ops.shape_of(model.input("input_ids"), output_type="i64")
    rows, new = ops.gather(ids, zero, zero), ops.gather(ids, one, zero)
    length = ops.gather(ops.shape_of(past, output_type="i64"), two, zero)
    total = ops.add(length, new)
    both = ops.concat([ops.unsqueeze(rows, zero), ops.unsqueeze(total, zero)], 0)
    for port in [port for port in model.inputs if port.get_names() & {"attention_mask", "position_ids"}]:
        if "attention_mask" in port.get_names():
            made = ops.broadcast(one, both)
        else:
            places = ops.unsqueeze(ops.range(length, total, one, "i64"), zero)
            made = ops.broadcast(places, ids)
        for reader in port.get_node().output(0).get_target_inputs():
            reader.replace_source_output(made.output(0))
        model.remove_parameter(port.get_node())
    model.validate_nodes_and_infer_types()


def keep_all_logits(model: Any) -> None:
    """Replace the input that selects positions by all of them."""
    from openvino import opset13 as ops

    (kept,) = (port.get_node() for port in model.inputs if KEPT in port.get_names())
    (ids,) = (port for port in model.inputs if "input_ids" in port.get_names())
    length = ops.gather(ops.shape_of(ids, output_type="i64"), ops.constant(np.int64(1)), ops.constant(np.int64(0)))
    places = ops.range(ops.constant(np.int64(0)), length, ops.constant(np.int64(1)), "i64")
    for reader in kept.output(0).get_target_inputs():
        reader.replace_source_output(places.output(0))
    model.remove_parameter(kept)
    model.validate_nodes_and_infer_types()
