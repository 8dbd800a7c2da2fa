"""An encoder-decoder made of parts: what the encoder gives is read once, and decoders go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.generation.decoder_session import Context, Decoder, Infer
from optimum_core.types import Session
from optimum_core.types.state import ENCODER_HIDDEN, ENCODER_MASK, HIDDEN

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """The output of an encoder.

    Attributes:
        hidden: float [rows, places, width].
        mask: int64 [rows, places], 1 where a place holds something; None: all do.
    """

    hidden: Array
    mask: Array | None = None


class EncoderDecoder:
    """Runs the encoder and the cross attention, and gives decoders that know the result.

    Args:
        cross: the session that makes keys and values of hidden states; None: the decoder takes hidden states.
        decoder: the decoder, which knows no input yet.
        bind: returns the function that runs a session.
    """

    def __init__(self, encoder: Session, cross: Session | None, decoder: Decoder, bind: Callable[[Any], Infer]) -> None:
        self.encoder, self.decoder = encoder, decoder
        self._cross = cross
        self._run_encoder = bind(encoder)
        self._run_cross = bind(cross) if cross is not None else None

    def encode(self, inputs: Mapping[str, Any]) -> Encoded:
        """Run the encoder on its inputs, which may stand among others."""
        own = {spec.name: inputs[spec.name] for spec in self.encoder.inputs}
        made = self._run_encoder(own)
        mask = made[ENCODER_MASK] if ENCODER_MASK in made else own.get("attention_mask")
        return Encoded(hidden=made[HIDDEN], mask=mask)

    def read(self, encoded: Encoded) -> Decoder:
        """Return the decoder with what it needs to know of an encoder's output.

        Rows that repeat the one before, as beams do, are read once.
        """
        origins = _origins(encoded)
        firsts = np.unique(origins)
        hidden = encoded.hidden if len(firsts) == len(origins) else encoded.hidden[firsts]
        hidden = np.ascontiguousarray(hidden)
        made = {ENCODER_HIDDEN: hidden} if self._run_cross is None else self._run_cross({ENCODER_HIDDEN: hidden})
        names = {spec.name for spec in self.decoder.session.inputs}
        arrays = {name: np.asarray(array) for name, array in made.items() if name in names}
        if ENCODER_MASK in names:
            arrays[ENCODER_MASK] = _mask_of(encoded)[firsts]
        context = Context(arrays, np.arange(len(firsts)))
        return self.decoder.after(context.selected(np.searchsorted(firsts, origins)))

    def after(self, inputs: Mapping[str, Any]) -> Decoder:
        """Return the decoder with what it needs to know of these inputs of the encoder."""
        return self.read(self.encode(inputs))

    def close(self) -> None:
        """Free all parts."""
        for session in (self.encoder, self._cross, self.decoder.session):
            if session is not None:
                session.close()


def _mask_of(encoded: Encoded) -> Array:
    if encoded.mask is None:
        return np.ones(encoded.hidden.shape[:2], np.int64)
    return np.ascontiguousarray(encoded.mask, dtype=np.int64)


def _origins(encoded: Encoded) -> Array:
    """Return for each row the first of those that equal it and stand together."""
    found = np.arange(len(encoded.hidden))
    for row in range(1, len(found)):
        first = found[row - 1]
        if np.array_equal(encoded.hidden[row], encoded.hidden[first]) and (
            encoded.mask is None or np.array_equal(encoded.mask[row], encoded.mask[first])
        ):
            found[row] = first
    return found
