"""Times of single tokens in Whisper's texts: read from the original's cross attention, which no graph gives out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import GenerationMixin

from optimum_core.errors import UnavailableError


class WordTimes(GenerationMixin):  # type: ignore[misc] # transformers states no types
    """The part of Whisper's `generate` that finds the times of tokens; the text comes from the backend.

    The original reads each finished text once, in one call, behind what the backend's encoder gave.
    """

    _who: str
    #: Returns the eager model, a copy that shares weights; None: there is none in this process.
    original: Callable[[], Any] | None = None

    def _set_return_outputs(self, **asked: Any) -> Any:
        """Ask for what `generate` returns, but for attention, which the steps of a backend do not return.

        Raises:
            UnavailableError: times of tokens are asked for, and the original is not at hand.
        """
        settings, wants_times = asked["generation_config"], asked["return_token_timestamps"]
        if wants_times and self.original is None:
            why = "times of words are read from the original's attention, and the original is not in this process"
            raise UnavailableError(self._who, why, "use what accelerate(…) returned, or pass return_timestamps=True")
        before = settings.output_attentions
        returned = super()._set_return_outputs(**asked)
        settings.output_attentions = before
        return returned

    def _with_attention(self, made: Any, state: Mapping[str, Any]) -> Any:
        """Return a result with the cross attention of its texts, where the times of tokens are asked for.

        Args:
            state: the arguments of the decoding: `generation_config`, `encoder_outputs`, the decoder's mask.
        """
        settings = state["generation_config"]
        if getattr(settings, "return_token_timestamps", False) and self.original is not None:
            # An attribute, no key: `generate` would take a key apart by steps and rows.
            made.attention_of_original = _cross_attention(self.original(), made.sequences, state)
        return made

    def _extract_token_timestamps(self, generate_outputs: Any, alignment_heads: Any, **known: Any) -> Any:
        layers = generate_outputs.attention_of_original
        values = dict(generate_outputs.items())
        # Beams: the rows are those of the finished texts, and need no gathering; only the longest tells the length.
        if (beams := values.pop("beam_indices", None)) is not None:
            length = int((beams != -1).sum(-1).max()) + (known.get("num_input_ids") or 1) - 1
            layers = tuple(layer[:, :, :length] for layer in layers)
        values["cross_attentions"] = (layers,)
        return super()._extract_token_timestamps(type(generate_outputs)(**values), alignment_heads, **known)


def _cross_attention(model: Any, texts: torch.Tensor, state: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return for each layer the weights [rows, heads, tokens, places] with which each token but the last reads the
    sound."""
    hidden, mask = state["encoder_outputs"][0], state.get("decoder_attention_mask")
    # Rows of a beam repeat those of the sound, and several answers may be returned for one.
    sounds = hidden.shape[0] // (state["generation_config"].num_beams or 1)
    rows = torch.arange(sounds).repeat_interleave(len(texts) // sounds) * (hidden.shape[0] // sounds)
    read = texts[:, :-1]
    seen = torch.ones_like(read)
    if mask is not None:
        seen[:, : mask.shape[1]] = mask[rows][:, : read.shape[1]]
    model.set_attn_implementation("eager")  # the others return no weights
    with torch.no_grad():
        answer = model(
            encoder_outputs=(hidden[rows],),
            decoder_input_ids=read,
            decoder_attention_mask=seen,
            decoder_position_ids=(seen.cumsum(-1) - 1).clamp(min=0),
            output_attentions=True,
            use_cache=False,
        )
    weights: tuple[torch.Tensor, ...] = answer.cross_attentions
    return weights
