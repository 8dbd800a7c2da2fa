"""The artifact of a model that generates, made of its decoder alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from optimum_core.types import Artifact
from optimum_core.types.state import DECODER


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
