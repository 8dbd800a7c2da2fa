"""The description of a decoder, found by trial: its inputs, its cache, and the positions that it assumes.

A causal language model of transformers is a decoder here if a call of it returns a cache of keys and values, and if it
computes the same from such a cache, filled by hand, as from the whole text. Whatever is otherwise (recurrent states,
caches that layers share, further required inputs) stays a model of one forward pass; the reason is in the report.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from optimum_core.generation.decoder import counted
from optimum_core.models.decoder_module import DecoderModule
from optimum_core.models.eager_calls import alike, fresh
from optimum_core.models.samples import Case
from optimum_core.models.signature import ModelSignature
from optimum_core.types import LayerState, StateSpec, TensorSpec
from optimum_core.types.state import VISIBLE

if TYPE_CHECKING:
    from optimum_core.models.encoder_decoder import EncoderSignature

Arrays = dict[str, np.ndarray[Any, Any]]

#: Lengths of the axes in the samples to trace with: all different, and none is 1.
TRACED = {"batch": 2, "past": 5, "sequence": 4, "kept": 3, "source": 7}
_COUNTED = ("places", "counts")
_TAKEN = frozenset({"input_ids", "attention_mask", "position_ids"})
_ROWS, _LENGTH = 2, 7


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
            spec.name: np.broadcast_to(counts, _shape(spec, lengths))
            for spec in self.inputs
            if spec.default in _COUNTED
        }
        drawn |= {spec.name: _pairs(mask, lengths["sequence"]) for spec in self.inputs if spec.name.startswith(VISIBLE)}
        drawn |= {spec.name: _context(spec, lengths, rng) for spec in self.inputs if spec.name not in drawn}
        past = {spec.name: rng.standard_normal(_shape(spec, lengths)).astype(np.float32) for spec in self.state.past}
        return {**{spec.name: np.ascontiguousarray(drawn[spec.name]) for spec in self.inputs}, **past}

    def first_call(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
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
    batches: Iterable[Mapping[str, np.ndarray[Any, Any]]]

    def __iter__(self) -> Iterator[Arrays]:
        return map(self.decoder.first_call, self.batches)


def _context(spec: TensorSpec, lengths: Mapping[str, int], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return an input from the encoder: keys or values, or the mask of its places, in which one row has padding."""
    shape = _shape(spec, lengths)
    if spec.dtype != "int64":
        return rng.standard_normal(shape).astype(np.float32)
    mask = np.ones(shape, np.int64)
    mask[1, shape[1] - 2 :] = 0
    return mask


def _pairs(mask: np.ndarray[Any, Any], new: int) -> np.ndarray[Any, Any]:
    """Return a mask of pairs: the first of the new positions sees what comes after it too, as in a picture."""
    rows, total = mask.shape
    made: np.ndarray[Any, Any] = np.tril(np.ones((rows, new, total), np.int64), total - new) * mask[:, None, :]
    made[:, 0, -1] = 1
    return made


class NotADecoderError(Exception):
    """The model is no decoder with a cache of keys and values; the message is the reason, a clause."""


def describe_decoder(module: Any, signature: ModelSignature) -> DecoderSignature:
    """Return the interface of a causal language model or an encoder-decoder as a decoder.

    Raises:
        NotADecoderError: it is none, or keeps something other than keys and values.
    """
    config = getattr(module, "config", None)
    if config is None or not getattr(module, "can_generate", bool)():
        raise NotADecoderError("it is no model of transformers that generates")
    if config.is_encoder_decoder:
        from optimum_core.models.encoder_decoder import describe_encoder_decoder

        return describe_encoder_decoder(module, signature)
    return _describe_causal(module, signature)


def _describe_causal(module: Any, signature: ModelSignature) -> DecoderSignature:
    if _takes_more(signature):
        from optimum_core.models.pictures import describe_pictures

        return describe_pictures(module, signature)
    _require_text(signature)
    ids = signature.draw(Case(name="decoder", lengths={"batch": _ROWS, "sequence": _LENGTH}, padding="none"))
    tokens = torch.as_tensor(ids["input_ids"])
    if tokens.shape != (_ROWS, _LENGTH):
        raise NotADecoderError("it takes texts of one length only")
    state = StateSpec(layers=tuple(_layers(module, tokens)), crop=True, reorder=True, fork=True)
    positions = _positions(module, tokens)
    _check_resumes(module, tokens, state, with_positions=positions is not None)
    logits = next(spec for spec in signature.outputs if spec.name == "logits")
    spec = next(spec for spec in signature.inputs if spec.name == "input_ids")
    return DecoderSignature(
        inputs=tuple(own_inputs(spec, positions, at_padding=_at_padding(module, tokens, positions))),
        outputs=(TensorSpec(name="logits", dtype=logits.dtype, shape=("batch", "kept", logits.shape[-1])),),
        state=state,
        greatest=spec.greatest if spec.greatest is not None else int(logits.shape[-1]) - 1,
    )


def _takes_more(signature: ModelSignature) -> bool:
    """Whether it takes something beside tokens, such as pictures."""
    return not {spec.name for spec in signature.inputs} <= _TAKEN


def _require_text(signature: ModelSignature) -> None:
    names = {spec.name for spec in signature.inputs}
    if [spec.name for spec in signature.outputs] != ["logits"]:
        raise NotADecoderError("a call returns more than logits")
    if "input_ids" not in names or not names <= _TAKEN:
        raise NotADecoderError(f"it takes more than tokens: {', '.join(sorted(names - _TAKEN)) or 'no ids'}")


def own_inputs(
    ids: TensorSpec, positions: Literal["places", "counts"] | None, at_padding: int | None = None
) -> list[TensorSpec]:
    """Return the inputs of a decoder, `logits_to_keep` last.

    Args:
        at_padding: the position that the model counts at padding; None: 0.
    """
    found = [
        TensorSpec(
            name="input_ids", dtype="int64", shape=("batch", "sequence"), least=ids.least, greatest=ids.greatest
        ),
        TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "total"), default="ones"),
    ]
    if positions is not None:
        shape = ("batch", "sequence")
        found.append(TensorSpec(name="position_ids", dtype="int64", shape=shape, default=positions, least=at_padding))
    return [*found, TensorSpec(name="logits_to_keep", dtype="int64", shape=("kept",))]


def _call(module: Any, **inputs: Any) -> Any:
    with torch.no_grad():
        return fresh(module)(**inputs, return_dict=True)


def _layers(module: Any, tokens: torch.Tensor) -> list[LayerState]:
    """Return the layers of the cache that one call gives back."""
    try:
        answer = _call(module, input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True)
    except Exception as error:
        raise NotADecoderError(f"it does not run with a cache: {error}") from error
    cache = getattr(answer, "past_key_values", None)
    layers = getattr(cache, "layers", None)
    if not layers:
        raise NotADecoderError("a call returns no cache of keys and values")
    return [layer_state(layer, tokens.shape) for layer in layers]


def layer_state(layer: Any, shape: tuple[int, ...]) -> LayerState:
    """Return the description of a layer of a cache that holds positions of this shape (rows, length).

    Raises:
        NotADecoderError: it holds something other than keys and values of every position.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        raise NotADecoderError(f"its cache has layers of a kind that no backend keeps: {type(layer).__name__}")
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None:
        raise NotADecoderError("some of its layers share the cache of others")
    rows, length = shape
    window = getattr(layer, "sliding_window", None)
    kept = length if window is None else min(length, int(window) - 1)
    for tensor in (keys, values):
        if tensor.ndim != 4 or tensor.shape[0] != rows or tensor.shape[2] != kept or tensor.dtype != torch.float32:
            raise NotADecoderError(f"its cache holds {tensor.dtype} {tuple(tensor.shape)}, no keys or values by head")
    return LayerState(
        heads=keys.shape[1],
        head_size=keys.shape[3],
        value_size=values.shape[3] if values.shape[3] != keys.shape[3] else None,
        window=int(window) if window is not None else None,
    )


def _positions(module: Any, tokens: torch.Tensor) -> Literal["places", "counts"] | None:
    """Return the positions that the model assumes where a call states none; None: it takes none."""
    if "position_ids" not in inspect.signature(module.forward).parameters:
        return None
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    counts = (mask.cumsum(-1) - 1).clamp(min=0)
    wanted = _call(module, input_ids=tokens, attention_mask=mask, use_cache=False).logits[mask == 1]
    stated = _call(module, input_ids=tokens, attention_mask=mask, position_ids=counts, use_cache=False)
    places = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    plain = _call(module, input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False)
    # Relative positions make no difference: both agree then.
    if alike(wanted, plain.logits[mask == 1]):
        return "places"
    if alike(wanted, stated.logits[mask == 1]):
        return "counts"
    raise NotADecoderError("it counts positions neither by place nor by mask")


def _at_padding(module: Any, tokens: torch.Tensor, positions: str | None) -> int | None:
    """Return the position that a model which counts by the mask assumes at padding on the right: OPT -1; None: 0."""
    if positions != "counts":
        return None
    mask = torch.ones_like(tokens)
    mask[1, -3:] = 0
    wanted = _call(module, input_ids=tokens, attention_mask=mask, use_cache=False).logits
    stated = torch.as_tensor(counted(mask.numpy(), tokens.shape[1], -1))
    found = _call(module, input_ids=tokens, attention_mask=mask, position_ids=stated, use_cache=False).logits
    return -1 if alike(wanted, found) else None


def _check_resumes(module: Any, tokens: torch.Tensor, state: StateSpec, *, with_positions: bool) -> None:
    """Compare a call that continues from a cache filled by hand with a call on the whole text."""
    half, length = tokens.shape[1] // 2, tokens.shape[1]
    mask = torch.ones_like(tokens)
    places = torch.arange(length)[None].expand_as(tokens)
    stated = {"position_ids": places} if with_positions else {}
    whole = _call(module, input_ids=tokens, attention_mask=mask, use_cache=False, **stated).logits
    decoder = DecoderModule(fresh(module), state).eval()
    made = None
    with torch.no_grad():
        for start, end in ((0, half), (half, length)):
            past = empty(state, tokens.shape[0]) if made is None else [made[spec.name] for spec in state.present]
            inputs = {
                "input_ids": tokens[:, start:end],
                "attention_mask": mask[:, :end],
                "logits_to_keep": torch.arange(end - start),
                **{name: tensor[:, start:end] for name, tensor in stated.items()},
                **dict(zip((spec.name for spec in state.past), past, strict=True)),
            }
            try:
                made = decoder(**inputs)
            except Exception as error:
                raise NotADecoderError(f"it does not run with a cache filled by hand: {error}") from error
            if not alike(whole[:, start:end], made["logits"]):
                raise NotADecoderError("with its cache it computes otherwise than on the whole text")


def empty(state: StateSpec, rows: int) -> list[torch.Tensor]:
    """Return keys and values of no position."""
    return [torch.zeros(_shape(spec, {"batch": rows, "past": 0})) for spec in state.past]


def _shape(spec: TensorSpec, lengths: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape)
