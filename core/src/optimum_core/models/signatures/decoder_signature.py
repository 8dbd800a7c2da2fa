"""The signature of a generator: its decoder with a cache as state, and the parts before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from optimum_core.generation.decoder_session import counted
from optimum_core.types import StateSpec, TensorSpec
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_core.types.state import VISIBLE

#: Lengths of the axes in the samples to trace with: all different, and none is 1.
TRACED = {"batch": 2, "past": 5, "sequence": 4, "kept": 3, "source": 7}
#: Defaults of inputs that are counted from the mask.
COUNTED = ("places", "counts")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSignature:
    """The interface of a part that keeps nothing, and inputs to trace it with."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    drawn: Arrays = field(default_factory=dict)
    state: None = None

    def samples(self) -> Arrays:
        """Return inputs to trace with."""
        return dict(self.drawn)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSignature:
    """The parts before a decoder.

    Attributes:
        encoder: from the inputs of the original's call to the hidden states, and to a mask if it makes another one.
        cross: from the hidden states to the cross attention's keys and values.
        eager_inputs: those of the eager decoder, which takes hidden states and keeps the keys and values of both kinds.
        unread: outputs of the original's call that are neither logits nor the encoder's: generation reads none of them.
    """

    encoder: PartSignature
    cross: PartSignature
    eager_inputs: tuple[TensorSpec, ...]
    unread: tuple[str, ...] = ()

    def with_inputs(self, inputs: tuple[TensorSpec, ...], drawn: Arrays) -> EncoderSignature:
        """Return the same with other shapes of the encoder's inputs, and a call with these to trace it with."""
        samples = {spec.name: drawn[spec.name] for spec in inputs}
        return replace(self, encoder=replace(self.encoder, inputs=inputs, drawn=samples))


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeSignature:
    """The part before a decoder of embeddings: the original's own code, in torch.

    Attributes:
        inputs, outputs: those of the original's call.
        texts: the inputs of the original as a decoder of texts alone.
        placeholders: ids that stand for something else than text.
        reads_ahead: attention without a mask sees what comes after it too, so that a text in pieces is read otherwise
            than in one.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    texts: tuple[TensorSpec, ...]
    placeholders: tuple[int, ...]
    reads_ahead: bool = False
    state: None = None

    def samples(self) -> Arrays:
        """Return nothing: it is not traced."""
        return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSignature:
    """The interface of a decoder with its cache as state.

    Attributes:
        inputs, outputs, state: as `optimum_core.types.state` describes them.
        greatest: the greatest token id.
        encoder: the parts before the decoder, in an encoder-decoder.
        merge: what makes the embeddings that the decoder takes, in a model of pictures or sound with text.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateSpec
    greatest: int
    encoder: EncoderSignature | None = None
    merge: MergeSignature | None = None

    @property
    def in_parts(self) -> bool:
        """Whether other parts stand before the decoder."""
        return self.encoder is not None or self.merge is not None

    def samples(self) -> Arrays:
        """Return inputs and a past to trace with; one row has padding on the left."""
        rng = np.random.default_rng(20)
        lengths = {**TRACED, "total": TRACED["past"] + TRACED["sequence"]}
        mask = np.ones((lengths["batch"], lengths["total"]), np.int64)
        mask[1, :2] = 0
        counts = np.clip(mask.cumsum(1) - 1, 0, None)[:, lengths["past"] :]
        drawn = {
            "input_ids": rng.integers(0, self.greatest + 1, (lengths["batch"], lengths["sequence"])),
            "attention_mask": mask,
            "position_ids": counts,
            "logits_to_keep": np.arange(lengths["sequence"])[-lengths["kept"] :],
        }
        drawn |= {
            spec.name: np.broadcast_to(counts, shape_at(spec, lengths))
            for spec in self.inputs
            if spec.default in COUNTED
        }
        drawn |= {spec.name: _pairs(mask, lengths["sequence"]) for spec in self.inputs if spec.name.startswith(VISIBLE)}
        drawn |= {spec.name: _context(spec, lengths, rng) for spec in self.inputs if spec.name not in drawn}
        past = {spec.name: rng.standard_normal(shape_at(spec, lengths)).astype(np.float32) for spec in self.state.past}
        return {**{spec.name: np.ascontiguousarray(drawn[spec.name]) for spec in self.inputs}, **past}

    def first_call(self, inputs: ArrayMapping) -> Arrays:
        """Return the inputs of a call of an empty state, for the logits of the last position.

        Args:
            inputs: those of a forward pass; positions are counted as `generate` counts them.
        """
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", np.ones_like(ids)).astype(np.int64)
        found = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": counted(mask, ids.shape[1]),
            "logits_to_keep": np.array([ids.shape[1] - 1]),
        }
        return {spec.name: found[spec.name] for spec in self.inputs}


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstCalls:
    """Batches of a forward pass as first calls of a decoder, to calibrate it on."""

    decoder: DecoderSignature
    batches: Iterable[ArrayMapping]

    def __iter__(self) -> Iterator[Arrays]:
        return map(self.decoder.first_call, self.batches)


def _context(spec: TensorSpec, lengths: Mapping[str, int], rng: np.random.Generator) -> NDArray:
    """Return an input from the encoder: keys or values, or the mask of its places, in which one row has padding."""
    shape = shape_at(spec, lengths)
    if spec.dtype != "int64":
        return rng.standard_normal(shape).astype(np.float32)
    mask = np.ones(shape, np.int64)
    mask[1, shape[1] - 2 :] = 0
    return mask


def _pairs(mask: NDArray, new: int) -> NDArray:
    """Return a mask of pairs: the first of the new positions sees what comes after it too, as in a picture."""
    rows, total = mask.shape
    made: NDArray = np.tril(np.ones((rows, new, total), np.int64), total - new) * mask[:, None, :]
    made[:, 0, -1] = 1
    return made


def shape_at(spec: TensorSpec, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of an array at lengths of the named axes."""
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape)
