"""`generate` of models that write about a picture, on the parts of an encoder-decoder: BLIP's own, and GIT's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from optimum_core.errors import UnavailableError
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.models.decoders.encoder_decoder_generate import EncoderFace
from optimum_core.models.decoders.generate import Host, StateCache


class _BlipText(Host):
    """BLIP's text model as `GenerationMixin` sees it: a lone decoder that is handed an encoder's output."""

    def __init__(self, who: str, parts: EncoderDecoder, config: Any, encoder: EncoderFace) -> None:
        # As in the original, it goes by its own configuration, and not by the whole model's `generation_config`.
        super().__init__(who, parts.decoder, config, lambda: GenerationConfig.from_model_config(config))
        self._parts, self._encoder = parts, encoder

    def forward(  # type: ignore[override] # it takes an encoder's output too
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: StateCache | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        **further: Any,
    ) -> Any:
        """Run the decoder on new tokens, after those in the cache."""
        cache = self.cache(past_key_values)
        self._go_behind(cache, encoder_hidden_states)
        return super().forward(input_ids, attention_mask, position_ids, cache, **further)

    def _first_generation(self, cache: StateCache, ids: torch.Tensor, model_kwargs: dict[str, Any]) -> Any:
        self._go_behind(cache, model_kwargs["encoder_hidden_states"])
        return cache.begun(len(ids))

    def _go_behind(self, cache: StateCache, hidden: Any) -> None:
        if cache.generation is None:
            cache.go_after(self._parts.read(self._encoder.read((hidden,), None)))


class BlipHost:
    """BLIP for its own `generate`, which reads the picture and lets the text model go on.

    Args:
        original: the original's class.
    """

    calls_return_cache = False

    def __init__(self, who: str, parts: EncoderDecoder, config: Any, original: Any) -> None:
        self._who, self._original, self.config = who, original, config
        self._encoder = EncoderFace(who, parts, "pixel_values", ())
        self.text_decoder = _BlipText(who, parts, config.text_config, self._encoder)
        self.decoder_input_ids = config.text_config.bos_token_id

    def vision_model(self, pixel_values: torch.Tensor, *, interpolate_pos_encoding: bool = False) -> Any:
        """Return what the encoder reads in a picture.

        Raises:
            UnavailableError: pictures of other sizes are asked for.
        """
        if interpolate_pos_encoding:
            why = "it was accelerated for pictures of its own size, without interpolate_pos_encoding"
            raise UnavailableError(self._who, why, "scale the pictures, or use the eager model")
        return self._encoder(pixel_values=pixel_values)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as the original does."""
        return self._original.generate(self, *args, **kwargs)


_HOSTS = {"BlipForConditionalGeneration": BlipHost}


def captioner_host(class_name: str, who: str, parts: EncoderDecoder, config: Any, settings: Callable[[], Any]) -> Any:
    """Return the host of a model that writes about a picture; None: this class is none of them."""
    import transformers

    made = _HOSTS.get(class_name)
    return None if made is None else made(who, parts, config, getattr(transformers, class_name))
