"""The eager model's answers to whole texts, without a cache; and the eager model as one that generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optimum_core.generation.decoder_session import Decoder, counted
from optimum_core.generation.encoder_decoder_session import Encoded, EncoderDecoder
from optimum_core.models.backends.torch_session import EagerSession
from optimum_core.models.decoders.captioner import as_encoder_decoder
from optimum_core.models.decoders.eager_state import EagerDecoderSession, renamed
from optimum_core.models.decoders.encoder_decoder_module import EncoderModule
from optimum_core.models.decoders.parts import parts_of
from optimum_core.models.eager.calls import ask, call, fresh
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.decoder_signature import Arrays
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types.state import DECODER, ENCODER, ENCODER_HIDDEN, ENCODER_MASK

Array = np.ndarray[Any, Any]


class WholeTexts:
    """The eager model on whole texts, behind drawn inputs of the encoder where it has one.

    Attributes:
        before: the inputs of the encoder; None: it has none.
    """

    def __init__(self, module: Any, signature: ModelSignature, rows: int, seed: int) -> None:
        assert signature.decoder is not None
        self._module = module
        self._has_positions = any(spec.name == "position_ids" for spec in signature.decoder.inputs)
        self._reads_mask = any(spec.name == ENCODER_MASK for spec in signature.decoder.inputs)
        self.before = drawn_before(signature, rows, seed)
        self._encoded = eager_parts(module, signature).encode(self.before) if self.before is not None else None

    def logits(self, ids: Array, mask: Array) -> Array:
        """Return the logits of all positions."""
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._has_positions:
            inputs["position_ids"] = counted(mask, ids.shape[1])
        if self._encoded is None:
            made = ask(self._module, inputs)
        else:
            inputs[ENCODER_HIDDEN] = self._encoded.hidden
            if self._reads_mask:
                inputs[ENCODER_MASK] = self._encoded.mask
            tensors = renamed({name: torch.as_tensor(array) for name, array in inputs.items()})
            output = tensors.pop("encoder_outputs")
            made = call(as_encoder_decoder(fresh(self._module)), tensors, encoder_outputs=output)
        logits: Array = made.logits.float().numpy()
        return logits

    def select(self, rows: Sequence[int]) -> None:
        """Replace the encoder's rows by those with these indices."""
        if self._encoded is not None:
            mask = self._encoded.mask
            self._encoded = Encoded(
                hidden=self._encoded.hidden[list(rows)], mask=mask[list(rows)] if mask is not None else None
            )


def text_tokens(module: Any, signature: ModelSignature) -> Array:
    """Return the tokens that texts are drawn of.

    None stands for a picture or a sound. Behind an encoder, padding is none of them: M2M-100 counts positions by what
    is no padding, and with a cache only within the new tokens, so that eager itself answers otherwise with a cache than
    without.
    """
    assert signature.decoder is not None
    tokens, pad = np.arange(signature.decoder.greatest + 1), getattr(module.config, "pad_token_id", None)
    if signature.decoder.merge is not None:
        return np.setdiff1d(tokens, signature.decoder.merge.placeholders)
    return tokens if signature.decoder.encoder is None or pad is None else tokens[tokens != pad]


def drawn_before(signature: ModelSignature, rows: int, seed: int) -> Arrays | None:
    """Return inputs of the encoder for this number of rows, padded where it has a mask; None: there is none."""
    assert signature.decoder is not None
    if signature.decoder.encoder is None:
        return None
    drawn = signature.draw(Case(name="dialogue", lengths={"batch": rows}, seed=seed))
    return {spec.name: drawn[spec.name] for spec in signature.decoder.encoder.encoder.inputs}


def eager_decoder(module: Any, signature: ModelSignature) -> Decoder:
    """Return the eager decoder with its own cache."""
    part = parts_of(signature, eager=True)[DECODER]
    assert part.state is not None
    known = signature.decoder
    inputs = known.merge.texts if known is not None and known.merge is not None else part.inputs
    session = EagerDecoderSession(
        inputs=inputs, outputs=part.outputs, state=part.state, module=as_encoder_decoder(fresh(module))
    )
    return Decoder(session, lambda state: state.run)


def eager_parts(module: Any, signature: ModelSignature) -> EncoderDecoder:
    """Return the eager encoder and decoder."""
    part = parts_of(signature, eager=True)[ENCODER]
    encoder = EagerSession(inputs=part.inputs, outputs=part.outputs, module=EncoderModule(fresh(module)).eval())
    return EncoderDecoder(encoder, None, eager_decoder(module, signature), lambda session: session.run)
