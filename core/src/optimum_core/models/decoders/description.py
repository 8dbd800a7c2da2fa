"""The description of a decoder, found by trial: its inputs, its cache, and the positions that it assumes.

A causal language model of transformers is a decoder here if a call of it returns a cache of keys and values, or of
states of a fixed size, and if it computes the same from such a cache, filled by hand, as from the whole text. Whatever
is otherwise (indexed caches, further required inputs) stays a model of one forward pass; the reason is in the report.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)

from optimum_core.generation.decoder_session import counted
from optimum_core.models.decoders.module import DecoderModule
from optimum_core.models.decoders.recurrent import cache_of, fixed_states, has_fixed_states
from optimum_core.models.eager.calls import alike, fresh
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.decoder_signature import DecoderSignature, shape_at
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import LayerState, StateSpec, TensorSpec

#: Inputs of a decoder that takes text alone.
TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids"})
_ROWS, _LENGTH = 2, 7
#: Kinds of layers whose keys and values are kept.
_KEPT = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)


class NotADecoderError(Exception):
    """The model is no decoder with a cache that backends keep; the message is the reason, a clause."""


def describe_causal(module: Any, signature: ModelSignature) -> DecoderSignature:
    """Return the interface of a causal language model of text alone.

    Raises:
        NotADecoderError: it is none, or keeps something that no backend does.
    """
    _require_text(signature)
    ids = signature.draw(Case(name="decoder", lengths={"batch": _ROWS, "sequence": _LENGTH}, padding="none"))
    tokens = torch.as_tensor(ids["input_ids"])
    if tokens.shape != (_ROWS, _LENGTH):
        raise NotADecoderError("it takes texts of one length only")
    state = state_of(_layers(module, tokens))
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


def _require_text(signature: ModelSignature) -> None:
    names = {spec.name for spec in signature.inputs}
    if [spec.name for spec in signature.outputs] != ["logits"]:
        raise NotADecoderError("a call returns more than logits")
    if "input_ids" not in names or not names <= TEXT_INPUTS:
        raise NotADecoderError(f"it takes more than tokens: {', '.join(sorted(names - TEXT_INPUTS)) or 'no ids'}")


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
    """Return the answer to inputs; tensors come contiguous, as some originals take no others.

    Raises:
        NotADecoderError: it refuses them.
    """
    given = {name: value.contiguous() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    try:
        with torch.no_grad():
            return fresh(module)(**given, return_dict=True)
    except Exception as error:
        held = " with a cache" if inputs.get("use_cache") else ""
        raise NotADecoderError(f"it does not run{held}: {error}") from error


def _layers(module: Any, tokens: torch.Tensor) -> list[LayerState]:
    """Return the layers of the cache that one call gives back."""
    answer = _call(module, input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True)
    layers = getattr(cache_of(answer), "layers", None)
    if not layers:
        raise NotADecoderError("a call returns no cache of keys and values")
    return layer_states(layers, tokens.shape)


def state_of(layers: Sequence[LayerState]) -> StateSpec:
    """Return the state of a decoder with these layers: positions can be removed where all keep positions."""
    crop = not any(layer.has_fixed_states for layer in layers)
    return StateSpec(layers=tuple(layers), crop=crop, reorder=True, fork=True)


def layer_states(layers: Sequence[Any], shape: tuple[int, ...]) -> list[LayerState]:
    """Return the descriptions of those layers of a cache that keep something.

    Raises:
        NotADecoderError: as `layer_state`.
    """
    from transformers.cache_utils import DummyLayer

    return [layer_state(layer, shape) for layer in filled_layers(layers) if not isinstance(layer, DummyLayer)]


def filled_layers(layers: Sequence[Any]) -> Sequence[Any]:
    """Return the layers of a cache up to the last that a call filled.

    transformers makes one for each layer that the configuration counts: in BART's kin those of the encoder, of which
    the decoder of Donut has fewer.
    """
    filled = [index for index, layer in enumerate(layers) if getattr(layer, "is_initialized", True)]
    return layers[: filled[-1] + 1] if filled else layers


def layer_state(layer: Any, shape: tuple[int, ...]) -> LayerState:
    """Return the description of a layer of a cache that holds positions of this shape (rows, length).

    Raises:
        NotADecoderError: it holds something other than keys and values of every position and states of a fixed size.
    """
    if not has_fixed_states(layer):
        return _key_value_state(layer, shape)
    try:
        convolutions, recurrences = fixed_states(layer)
    except ValueError as error:
        raise NotADecoderError(f"its cache holds {error}") from error
    if isinstance(layer, CacheLayerMixin):
        return replace(_key_value_state(layer, shape), convolutions=convolutions, recurrences=recurrences)
    return LayerState(kind="recurrent", convolutions=convolutions, recurrences=recurrences)


def _key_value_state(layer: Any, shape: tuple[int, ...]) -> LayerState:
    if type(layer) not in _KEPT:
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
    """Return the positions that the model assumes where a call states none; None: it takes none, or reads none."""
    if "position_ids" not in inspect.signature(module.forward).parameters:
        return None
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    counts = (mask.cumsum(-1) - 1).clamp(min=0)
    wanted = _call(module, input_ids=tokens, attention_mask=mask, use_cache=False).logits[mask == 1]
    stated = _call(module, input_ids=tokens, attention_mask=mask, position_ids=counts, use_cache=False)
    places = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    plain = _call(module, input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False)
    if alike(wanted, plain.logits[mask == 1]):  # relative positions make no difference: `counts` agree too then
        turned = _call(module, input_ids=tokens, attention_mask=mask, position_ids=places.flip(1), use_cache=False)
        return None if alike(wanted, turned.logits[mask == 1]) else "places"
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
    try:
        decoder = DecoderModule(fresh(module), state).eval()
    except Exception as error:
        raise NotADecoderError(f"no cache can be made for it: {error}") from error
    made = None
    with torch.no_grad():
        for start, end in ((0, half), (half, length)):
            past = empty(state, tokens.shape[0]) if made is None else [made[spec.name] for spec in state.present]
            inputs = {
                "input_ids": tokens[:, start:end].contiguous(),
                "attention_mask": mask[:, :end].contiguous(),
                "logits_to_keep": torch.arange(end - start),
                **{name: tensor[:, start:end].contiguous() for name, tensor in stated.items()},
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
    return [torch.zeros(shape_at(spec, {"batch": rows, "past": 0})) for spec in state.past]
