"""Models that write about a picture, called as encoder-decoders are: BLIP and GIT.

Their configurations tell of no encoder. But the picture comes first and reads nothing of the text, so that all that the
text ever reads of it is the same in every step: in BLIP the keys and values of cross attention, in GIT those of the
picture's places in each layer, which stand before those of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput


class Captioner(torch.nn.Module):
    """`forward(decoder_input_ids, …, pixel_values | encoder_outputs, past_key_values) -> logits and a cache`.

    Args:
        module: the original.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.config = module, module.config.get_text_config()

    def get_encoder(self) -> Any:
        """Return what reads the picture."""
        raise NotImplementedError

    def _read(self, encoder_outputs: Any, pixel_values: torch.Tensor | None) -> torch.Tensor:
        found = encoder_outputs if encoder_outputs is not None else self.get_encoder()(pixel_values=pixel_values)
        hidden: torch.Tensor = found[0]
        return hidden


class BlipCaptioner(Captioner):
    """BLIP: the text attends to the picture by cross attention."""

    def get_encoder(self) -> Any:
        return self.module.vision_model

    def forward(
        self,
        decoder_input_ids: torch.Tensor,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        pixel_values: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool = True,
    ) -> Seq2SeqLMOutput:
        hidden = self._read(encoder_outputs, pixel_values)
        answer = self.module.text_decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            encoder_hidden_states=hidden,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return Seq2SeqLMOutput(
            logits=answer.logits, past_key_values=answer.past_key_values, encoder_last_hidden_state=hidden
        )


_KINDS: Mapping[str, Callable[[Any], Captioner]] = {"BlipForConditionalGeneration": BlipCaptioner}


def is_captioner(module: Any) -> bool:
    """Whether a model writes about a picture without being configured as an encoder-decoder."""
    return type(module).__module__.startswith("transformers.") and type(module).__name__ in _KINDS


def as_encoder_decoder(module: Any) -> Any:
    """Return a model as encoder-decoders are called: itself, but for one that `is_captioner`."""
    return _KINDS[type(module).__name__](module).eval() if is_captioner(module) else module
