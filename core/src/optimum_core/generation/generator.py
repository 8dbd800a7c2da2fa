"""The artifact of a model that generates, made of its decoder, alone or behind an encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optimum_core.types import Artifact, TensorSpec
from optimum_core.types.state import CROSS, DECODER, ENCODER, IDS, IDS_MASK


def generator_of(decoder: Artifact, output: Path) -> Artifact:
    """Return the artifact whose only part is this decoder of ids; its inputs and outputs are those of a forward call.

    Args:
        output: the directory of the whole; the decoder's lies in it.
    """
    (logits,) = decoder.outputs
    call = ("input_ids", "attention_mask")  # positions are counted by the driver
    inputs = tuple(replace(spec, shape=("batch", "sequence")) for spec in decoder.inputs if spec.name in call)
    return replace(
        decoder,
        path=output,
        files=(),
        inputs=inputs,
        outputs=(replace(logits, shape=("batch", "sequence", logits.shape[-1])),),
        state=None,
        parts={DECODER: decoder},
    )


def generator_behind(encoder: Artifact, cross: Artifact, decoder: Artifact, output: Path) -> Artifact:
    """Return the artifact of an encoder, what makes keys and values of its output, and a decoder that takes these.

    Args:
        output: the directory of the whole; those of the parts lie in it.
    """
    (logits,), hidden = decoder.outputs, encoder.outputs[0]
    text = ("batch", "decoder_sequence")
    own = {"input_ids": IDS, "attention_mask": IDS_MASK}
    reads = [spec for spec in decoder.inputs if spec.name in own and not _always_one(spec)]
    return replace(
        decoder,
        path=output,
        files=(),
        inputs=(*encoder.inputs, *(replace(spec, name=own[spec.name], shape=text) for spec in reads)),
        outputs=(
            replace(logits, shape=(*text, logits.shape[-1])),
            replace(hidden, name="encoder_last_hidden_state"),
        ),
        state=None,
        parts={ENCODER: encoder, CROSS: cross, DECODER: decoder},
    )


def _always_one(mask: TensorSpec) -> bool:
    """Whether a decoder reads no mask, so that everything it is given is a token."""
    return mask.name == "attention_mask" and mask.least == 1
