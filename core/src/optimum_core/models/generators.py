"""The description of a model that generates, by its kind: text alone, an encoder before it, or pictures and sound."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from optimum_core.models.decoders.captioner import is_captioner
from optimum_core.models.decoders.description import TEXT_INPUTS, NotADecoderError, describe_causal
from optimum_core.models.signatures.decoder_signature import DecoderSignature
from optimum_core.models.signatures.signature import ModelSignature

if TYPE_CHECKING:
    from optimum_core.models.sources.source import Source

log = logging.getLogger(__name__)


def note_one_pass(source: Source, why: str) -> None:
    """Note for the report why a model that generates is accelerated without its cache."""
    if getattr(source.module(), "can_generate", bool)():
        source.notes = (
            *source.notes,
            f"it is accelerated as one forward pass, and generates only where it runs eagerly: {why}",
        )
    log.info("%s is accelerated as one forward pass: %s", source.name, why)


def describe_decoder(module: Any, signature: ModelSignature) -> DecoderSignature:
    """Return the interface of a causal language model or an encoder-decoder as a decoder.

    Raises:
        NotADecoderError: it is none, or keeps something other than keys and values.
    """
    config = getattr(module, "config", None)
    if config is None or not getattr(module, "can_generate", bool)():
        raise NotADecoderError("it is no model of transformers that generates")
    if config.is_encoder_decoder or is_captioner(module):
        from optimum_core.models.decoders.encoder_decoder_description import describe_encoder_decoder

        return describe_encoder_decoder(module, signature)
    if not {spec.name for spec in signature.inputs} <= TEXT_INPUTS:
        from optimum_core.models.multimodal.description import describe_pictures

        return describe_pictures(module, signature)
    return describe_causal(module, signature)
