"""The eager model's answers to whole texts, without a cache; and the eager model as one that generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from optimum_core.generation.decoder_session import Decoder, counted
from optimum_core.generation.encoder_decoder_session import EncodedOnce, EncoderDecoder
from optimum_core.models.backends.eager_torch.session import EagerSession
from optimum_core.models.decoders.eager_state import EagerDecoderSession, renamed
from optimum_core.models.decoders.encoder_decoder_module import EncoderModule, behind_encoder
from optimum_core.models.decoders.parts import parts_of
from optimum_core.models.eager.calls import ask, call, fresh
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types.arrays import Arrays, NDArray
from optimum_core.types.state import DECODER, ENCODER, ENCODER_HIDDEN, ENCODER_MASK


class WholeTexts:
    """The eager model on whole texts, behind drawn inputs of the encoder where it has one.

    Attributes:
        before: the inputs of the encoder; None: it has none.

    Args:
        eager: the eager encoder and decoder; None: there is no encoder.
    """

    def __init__(self, module: Any, signature: ModelSignature, rows: int, eager: EncodedOnce | None) -> None:
        assert signature.decoder is not None
        self._module = module
        self._has_positions = any(spec.name == "position_ids" for spec in signature.decoder.inputs)
        self._reads_mask = any(spec.name == ENCODER_MASK for spec in signature.decoder.inputs)
        self.before = drawn_before(signature, rows) if eager is not None else None
        self._encoded = eager.encode(self.before) if eager is not None and self.before is not None else None

    def logits(self, ids: NDArray, mask: NDArray) -> NDArray:
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
            made = call(behind_encoder(fresh(self._module)), tensors, encoder_outputs=output)
        logits: NDArray = made.logits.float().numpy()
        return logits

    def select(self, rows: Sequence[int]) -> None:
        """Replace the encoder's rows by those with these indices."""
        if self._encoded is not None:
            self._encoded = self._encoded.selected(rows)


def text_tokens(module: Any, signature: ModelSignature) -> NDArray:
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


#: Rows of the encoder's inputs that are drawn.
_ROWS, _SEED = 3, 7


def drawn_before(signature: ModelSignature, rows: int) -> Arrays | None:
    """Return inputs of the encoder for this number of rows, padded where it has a mask; None: there is none.

    They are the first rows of one draw: so an encoder, which takes most of the time of speech, reads each row once.
    """
    assert signature.decoder is not None and rows <= _ROWS
    if signature.decoder.encoder is None:
        return None
    drawn = signature.draw(Case(name="dialogue", lengths={"batch": _ROWS}, seed=_SEED))
    return {spec.name: drawn[spec.name][:rows] for spec in signature.decoder.encoder.encoder.inputs}


def eager_decoder(module: Any, signature: ModelSignature) -> Decoder:
    """Return the eager decoder with its own cache."""
    part = parts_of(signature, eager=True)[DECODER]
    assert part.state is not None
    known = signature.decoder
    inputs = known.merge.texts if known is not None and known.merge is not None else part.inputs
    session = EagerDecoderSession(
        inputs=inputs, outputs=part.outputs, state=part.state, module=behind_encoder(fresh(module))
    )
    return Decoder(session, lambda state: state.run)


def eager_behind(module: Any, signature: ModelSignature) -> EncodedOnce | None:
    """Return the eager encoder and decoder, whose encoder reads each row once; None: there is no encoder."""
    assert signature.decoder is not None
    return EncodedOnce(eager_parts(module, signature)) if signature.decoder.encoder is not None else None


def eager_parts(module: Any, signature: ModelSignature) -> EncoderDecoder:
    """Return the eager encoder and decoder."""
    part = parts_of(signature, eager=True)[ENCODER]
    encoder = EagerSession(inputs=part.inputs, outputs=part.outputs, module=EncoderModule(fresh(module)).eval())
    return EncoderDecoder(encoder, None, eager_decoder(module, signature), lambda session: session.run)
