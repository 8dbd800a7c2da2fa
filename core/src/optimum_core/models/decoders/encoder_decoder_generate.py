"""`generate` of transformers on an encoder-decoder of any backend.

The encoder runs once, and so does cross attention's product of its output: the cache of a generation stands for both.
Classes whose `generate` is that of a mixin of their own (Whisper's, with its languages, timestamps and long recordings)
keep it: the host then derives from that mixin.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import ModelOutput

from optimum_core.errors import InputError
from optimum_core.generation.encoder_decoder_session import Encoded, EncoderDecoder
from optimum_core.models.decoders.generate import Host, StateCache, refuse
from optimum_core.models.decoders.word_times import WordTimes
from optimum_core.types.state import ENCODER_MASK

_MASK = "attention_mask"
_OFF = ("output_attentions", "output_hidden_states")  # False here: see `refuse`


@dataclass
class EncoderOutput(BaseModelOutput):  # type: ignore[misc] # transformers states no types
    """The output of an encoder, with the mask of its places where the encoder makes one."""

    attention_mask: torch.Tensor | None = None


class EncoderFace:
    """The encoder alone, called as the original's: torch in and torch out."""

    def __init__(self, who: str, parts: EncoderDecoder, main_input: str, ignored: Collection[str]) -> None:
        self.main_input_name = main_input
        self._who, self._parts, self._ignored = who, parts, frozenset(ignored)
        self._names = [spec.name for spec in parts.encoder.inputs]

        def forward(**inputs: Any) -> EncoderOutput:
            return self._encoded(inputs)

        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in {*self._names, _MASK}]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        self.forward = forward

    def __call__(self, *args: Any, **inputs: Any) -> EncoderOutput:
        if args:
            inputs[self.main_input_name] = args[0]
        return self.forward(**inputs)

    def _encoded(self, inputs: dict[str, Any]) -> EncoderOutput:
        inputs = {name: value for name, value in inputs.items() if value is not None and name != "return_dict"}
        refuse(self._who, inputs)
        self.check_mask(inputs.get(_MASK))
        unknown = sorted(
            set(inputs) - {*self._names, _MASK, *self._ignored} - {"output_attentions", "output_hidden_states"}
        )
        if unknown:
            raise InputError(self._who, f"its encoder has no input {unknown[0]!r}", f"pass {', '.join(self._names)}")
        given = {name: inputs[name] for name in self._names if name in inputs}
        if _MASK in self._names and _MASK not in given:
            given[_MASK] = torch.ones(next(iter(given.values())).shape[:2], dtype=torch.long)
        if missing := [name for name in self._names if name not in given]:
            raise InputError(self._who, f"{missing[0]} is missing", "pass the input of the encoder")
        self._check_shapes(given)
        types = {spec.name: getattr(torch, spec.dtype) for spec in self._parts.encoder.inputs}
        made = self._parts.encode({name: value.to(types[name]).numpy() for name, value in given.items()})
        own = self.makes_mask and made.mask is not None
        return EncoderOutput(
            last_hidden_state=torch.from_numpy(made.hidden),
            attention_mask=torch.from_numpy(made.mask) if own and made.mask is not None else None,
        )

    def _check_shapes(self, given: Mapping[str, torch.Tensor]) -> None:
        """Refuse a size that the encoder was not made for.

        Raises:
            InputError: an axis that is fixed has another length.
        """
        for spec in self._parts.encoder.inputs:
            shape = given[spec.name].shape
            fixed = [(axis, length) for axis, length in zip(spec.shape, shape, strict=False) if isinstance(axis, int)]
            if len(shape) != len(spec.shape) or any(axis != length for axis, length in fixed):
                why = f"{spec.name} is {list(shape)}, and its encoder takes {list(spec.shape)}"
                raise InputError(self._who, why, "bring it to that size, as the model's processor does")

    @property
    def makes_mask(self) -> bool:
        """Whether the encoder makes a mask of its places."""
        return any(spec.name == ENCODER_MASK for spec in self._parts.encoder.outputs)

    def check_mask(self, mask: Any) -> None:
        """Reject a mask that leaves something out where the model was accelerated without one.

        Raises:
            InputError: it does.
        """
        if mask is None or _MASK in self._names or _MASK in self._ignored or bool(torch.as_tensor(mask).all()):
            return
        raise InputError(
            self._who,
            "attention_mask leaves places out, and the model was accelerated without it",
            "pass sample_inputs= with an attention_mask to accelerate, or leave it out here",
        )

    def read(self, output: Any, mask: Any) -> Encoded:
        """Return an encoder's output as it was handed in, with the mask of the encoder's input.

        Raises:
            InputError: the mask leaves something out, and the output is none of this encoder, which makes a mask of it.
        """
        hidden = output["last_hidden_state"] if hasattr(output, "keys") else output[0]
        own = getattr(output, _MASK, None) if self.makes_mask else mask
        if own is None and mask is not None and not bool(torch.as_tensor(mask).all()):
            why = "encoder_outputs come without the mask of their places, and attention_mask is that of the samples"
            raise InputError(self._who, why, "pass what get_encoder() of this model returns, or the samples themselves")
        return Encoded(hidden=hidden.detach().numpy(), mask=own.numpy() if own is not None else None)


class EncoderDecoderHost(Host):
    """The model as `GenerationMixin` needs it, on an encoder and a decoder."""

    def __init__(
        self,
        who: str,
        parts: EncoderDecoder,
        config: Any,
        settings: Callable[[], Any],
        *,
        main_input: str,
        ignored: Collection[str] = (),
    ) -> None:
        super().__init__(who, parts.decoder, config, settings)
        self.main_input_name = main_input
        self.encoder = EncoderFace(who, parts, main_input, ignored)
        self._parts = parts

    def get_encoder(self, modality: str | None = None) -> EncoderFace:
        """Return the encoder alone."""
        return self.encoder

    def forward(  # type: ignore[override] # an encoder-decoder has other inputs
        self,
        decoder_input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: StateCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **further: Any,
    ) -> Seq2SeqLMOutput:
        """Run the decoder on new tokens, after those in the cache, and the encoder where its output was not passed."""
        refuse(self._who, further)
        if decoder_input_ids is None:
            raise InputError(self._who, "decoder_input_ids is missing", "pass the decoder's tokens")
        cache = self.cache(past_key_values)
        if encoder_outputs is None and cache.generation is None:
            encoder_outputs = self.encoder(attention_mask=attention_mask, **further)
        generation = self._begun(cache, len(decoder_input_ids), encoder_outputs, attention_mask)
        logits = generation.feed(
            decoder_input_ids.numpy(),
            decoder_attention_mask.numpy() if decoder_attention_mask is not None else None,
            decoder_position_ids.numpy() if decoder_position_ids is not None else "assumed",
        )
        keeps = use_cache is not False or past_key_values is not None
        if not keeps:
            cache.close()
        return Seq2SeqLMOutput(
            logits=torch.from_numpy(logits),
            past_key_values=cache if keeps else None,
            encoder_last_hidden_state=encoder_outputs[0] if encoder_outputs is not None else None,
        )

    def _begun(self, cache: StateCache, rows: int, encoder_outputs: Any, mask: torch.Tensor | None) -> Any:
        if cache.generation is None:
            self.encoder.check_mask(mask)
            cache.go_after(self._parts.read(self.encoder.read(encoder_outputs, mask)))
        return cache.begun(rows)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """Count positions by the decoder's mask, as Whisper does."""
        mask = kwargs.get("decoder_attention_mask")
        if mask is not None and self._decoder.positions is not None and "decoder_position_ids" not in kwargs:
            positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
            kwargs["decoder_position_ids"] = positions[..., -input_ids.shape[1] :]
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        return prepared

    def _first_generation(self, cache: StateCache, ids: torch.Tensor, model_kwargs: dict[str, Any]) -> Any:
        return self._begun(cache, len(ids), model_kwargs["encoder_outputs"], model_kwargs.get(_MASK))

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        return self._returned(super()._sample(*args, **kwargs), kwargs)

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        return self._returned(super()._beam_search(*args, **kwargs), kwargs)

    def _assisted_decoding(self, *args: Any, **kwargs: Any) -> Any:
        return self._returned(super()._assisted_decoding(*args, **kwargs), kwargs)

    def _returned(self, made: Any, state: Mapping[str, Any]) -> Any:
        """Return a result without its cache where a mixin's `generate` would take that apart by rows."""
        if not self._takes_results_apart or not isinstance(made, ModelOutput):
            return made
        kept = type(made)(**{name: value for name, value in made.items() if name != "past_key_values"})
        return self._with_attention(kept, state) if isinstance(self, WordTimes) else kept

    _takes_results_apart = False
    _mask_name, _positions_name = "decoder_attention_mask", "decoder_position_ids"


def host_for(
    class_name: str,
    who: str,
    parts: EncoderDecoder,
    config: Any,
    settings: Callable[[], Any],
    *,
    main_input: str,
    ignored: Collection[str] = (),
    original: Callable[[], Any] | None = None,
) -> EncoderDecoderHost:
    """Return the host for a model of this class, with the `generate` of the class's own mixins.

    Args:
        original: returns a copy of the eager model, where there is one in this process.
    """
    import transformers

    mixins = [
        cls
        for cls in getattr(transformers, class_name, object).__mro__
        if issubclass(cls, GenerationMixin) and cls is not GenerationMixin and not issubclass(cls, PreTrainedModel)
    ]
    is_whisper = bool(mixins) and config.model_type == "whisper"
    own = {"_takes_results_apart": True}
    bases = (EncoderDecoderHost, *([WordTimes] if is_whisper else []), *mixins)
    made = type("EncoderDecoderHost", bases, own) if mixins else EncoderDecoderHost
    host: EncoderDecoderHost = made(who, parts, config, settings, main_input=main_input, ignored=ignored)
    if is_whisper:
        host.model, host.original = _whisper_body(config, parts), original
    return host


_WHISPER_STRIDE = 2


def _whisper_body(config: Any, parts: EncoderDecoder) -> Any:
    """Return what Whisper's `generate` reads of the model: how many frames its convolutions make one place of.

    Where the graph does not state the frames, that is what every Whisper has.
    """
    frames = next(spec.shape[-1] for spec in parts.encoder.inputs if spec.name == "input_features")
    stride = frames // config.max_source_positions if isinstance(frames, int) else _WHISPER_STRIDE
    first, second = SimpleNamespace(stride=(1,)), SimpleNamespace(stride=(stride,))
    return SimpleNamespace(encoder=SimpleNamespace(conv1=first, conv2=second), config=SimpleNamespace())
