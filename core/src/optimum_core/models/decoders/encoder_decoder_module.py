"""The parts of an encoder-decoder as pure functions, for exporters: encoder, cross attention's cache, decoder.

The decoder does not see the encoder's output. It takes the keys and values that its cross attention makes of it, which
are the same in every step: so they are computed once, and a step has no products with them left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FunctionType, MethodType
from typing import Any

import torch

from optimum_core.models.decoders.captioner import as_encoder_decoder
from optimum_core.models.decoders.module import StatefulModule, filled_cache
from optimum_core.models.eager.calls import fixed_arguments, fresh
from optimum_core.types import StateSpec
from optimum_core.types.state import ENCODER_MASK, HIDDEN


class EncoderModule(torch.nn.Module):
    """`forward(**inputs) -> dict` of hidden states, and of a mask of its places where the encoder makes one.

    Args:
        module: an encoder-decoder of transformers.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.encoder = as_encoder_decoder(module).get_encoder()
        self.arguments = {name: value for name, value in fixed_arguments(self.encoder).items() if name != "use_cache"}

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        with _traced_lengths(self.encoder):
            made = self.encoder(**inputs, **self.arguments)
            mask = getattr(made, "attention_mask", None)
            if mask is None and "attention_mask" in inputs:
                mask = _shortened(self.encoder, made.last_hidden_state, inputs["attention_mask"])
        return {HIDDEN: made.last_hidden_state} | ({ENCODER_MASK: mask.long()} if mask is not None else {})


#: Method of encoders that make one place of several samples or frames: it makes a mask of places of that of these.
_PLACES = "_get_feature_vector_attention_mask"


def _shortened(encoder: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """Return the mask of the encoder's places, if it makes these of several samples or frames."""
    shorten = next((getattr(part, _PLACES) for part in encoder.modules() if hasattr(part, _PLACES)), None)
    return shorten(hidden.shape[1], mask) if shorten is not None else None


def behind_encoder(module: Any) -> Any:
    """Return a model as encoder-decoders are called, behind an encoder's output: its masks are of the encoder's places.

    Speech2Text, SpeechT5 and models with a Wav2Vec2 encoder take that of the samples here too, and shorten it in each
    step: a copy of these takes it as it is.
    """
    if any(hasattr(part, _PLACES) for part in module.modules()):
        module = fresh(module)
        for part in module.modules():
            if hasattr(part, _PLACES):
                vars(part)[_PLACES] = _as_it_is
    return as_encoder_decoder(module)


def _as_it_is(_: Any, mask: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
    return mask


@contextmanager
def _traced_lengths(encoder: Any) -> Iterator[None]:
    """Keep what an encoder's convolutions leave of a length in a trace while the block runs.

    Moonshine rounds it by `int`, which a trace of TorchScript makes a constant: that of the sample's length.
    """
    method = getattr(encoder, _LENGTHS, None)
    if method is None or not torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call] # of torch
        yield
        return
    own = method.__func__
    traced = FunctionType(own.__code__, {**own.__globals__, "int": _truncated}, own.__name__, own.__defaults__)
    vars(encoder)[_LENGTHS] = MethodType(traced, encoder)
    try:
        yield
    finally:
        del vars(encoder)[_LENGTHS]


_LENGTHS = "_get_feat_extract_output_lengths"


def _truncated(number: Any) -> Any:
    return number.long() if isinstance(number, torch.Tensor) else int(number)


class CrossModule(torch.nn.Module):
    """`forward(encoder_hidden_states) -> dict` of keys and values: those that the decoder makes at its first token.

    Args:
        names: the names of keys and values, layer by layer.
    """

    def __init__(self, module: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.module = behind_encoder(module)
        self.names = tuple(names)

    def forward(self, encoder_hidden_states: torch.Tensor) -> dict[str, torch.Tensor]:
        first = torch.zeros((encoder_hidden_states.shape[0], 1), dtype=torch.int64)
        mask = torch.ones(encoder_hidden_states.shape[:2], dtype=torch.int64)
        answer = self.module(
            decoder_input_ids=first,
            encoder_outputs=encoded(encoder_hidden_states, mask),
            past_key_values=_new_cache(),
            use_cache=True,
            return_dict=True,
        )
        layers = answer.past_key_values.cross_attention_cache.layers
        made = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return dict(zip(self.names, made, strict=True))


class CrossDecoderModule(StatefulModule):
    """`forward(input_ids, attention_mask, …, logits_to_keep, **cross, **past) -> dict` of logits and present.

    Args:
        cross: the names of the cross attention's keys and values.
    """

    def __init__(self, module: Any, state: StateSpec, cross: Sequence[str]) -> None:
        super().__init__(state)
        self.module = behind_encoder(module)
        self.cross_names = tuple(cross)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **tensors: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        cross = [tensors[name] for name in self.cross_names]
        # Only the length of the encoder's output is read where its keys and values are there.
        hidden = cross[0].new_zeros((cross[0].shape[0], cross[0].shape[2], 1))
        answer = self.module(
            decoder_input_ids=input_ids,
            decoder_attention_mask=attention_mask,
            encoder_outputs=encoded(hidden, encoder_attention_mask),
            past_key_values=_filled(self.past(tensors), cross),
            use_cache=True,
            return_dict=True,
            **({} if position_ids is None else {"decoder_position_ids": position_ids}),
            **({} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}),
        )
        logits = answer.logits.index_select(1, logits_to_keep)
        return self.outputs(logits, answer.past_key_values.self_attention_cache)


def encoded(hidden: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """Return an encoder's output around hidden states; with the mask, where decoders look for it there.

    Of what else the output of this model's own encoder has (the routers' scores of a mixture of experts), it has None.
    """
    made = _output_class()(last_hidden_state=hidden)
    made.attention_mask = mask  # an attribute, and no item: the tuple has none in most models
    return made


@cache
def _output_class() -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    class Encoded(BaseModelOutput):  # type: ignore[misc] # transformers states no types
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    return Encoded


def _new_cache() -> Any:
    """Return an empty cache of layers that take what they are given.

    `DynamicCache` joins it to an empty tensor of one axis, which OpenVINO refuses.
    """
    from transformers import EncoderDecoderCache
    from transformers.cache_utils import Cache, DynamicLayer

    class FirstLayer(DynamicLayer):  # type: ignore[misc] # transformers states no types
        def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            self.keys, self.values, self.is_initialized = keys, values, True
            return keys, values

    return EncoderDecoderCache(*(Cache(layer_class_to_replicate=FirstLayer) for _ in range(2)))


def _filled(past: Sequence[torch.Tensor], cross: Sequence[torch.Tensor]) -> Any:
    from transformers import EncoderDecoderCache

    return EncoderDecoderCache(filled_cache(past), filled_cache(cross))
