"""An encoder-decoder made of parts: what the encoder gives is read once, and decoders go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.generation.decoder_session import Context, Decoder, RunPart
from optimum_core.types import Session
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import ENCODER_HIDDEN, ENCODER_MASK, HIDDEN


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """The output of an encoder.

    Attributes:
        hidden: float [rows, places, width].
        mask: int64 [rows, places], 1 where a place holds something; None: all do.
    """

    hidden: NDArray
    mask: NDArray | None = None

    def selected(self, rows: Sequence[int]) -> Encoded:
        """Return these rows of it."""
        mask = self.mask[list(rows)] if self.mask is not None else None
        return Encoded(hidden=self.hidden[list(rows)], mask=mask)


class EncoderDecoder:
    """Runs the encoder and the cross attention, and gives decoders that know the result.

    Args:
        cross: the session that makes keys and values of hidden states; None: the decoder takes hidden states.
        decoder: the decoder, which knows no input yet.
        bind: returns the function that runs a session.
    """

    def __init__(
        self, encoder: Session, cross: Session | None, decoder: Decoder, bind: Callable[[Any], RunPart]
    ) -> None:
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


class EncodedOnce:
    """An encoder-decoder whose encoder reads each row of its inputs once, whatever rows it comes with."""

    def __init__(self, parts: EncoderDecoder) -> None:
        self._parts = parts
        self._known: dict[tuple[object, ...], Encoded] = {}

    def encode(self, inputs: Mapping[str, Any]) -> Encoded:
        """Return what the encoder makes of these rows; it runs on those that are new."""
        keys = [_row_key(inputs, row) for row in range(len(next(iter(inputs.values()))))]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            made = self._parts.encode({name: array[list(new.values())] for name, array in inputs.items()})
            self._known |= {key: made.selected([place]) for place, key in enumerate(new)}
        rows = [self._known[key] for key in keys]
        masks = [row.mask for row in rows if row.mask is not None]
        return Encoded(
            hidden=np.concatenate([row.hidden for row in rows]), mask=np.concatenate(masks) if masks else None
        )

    def after(self, inputs: Mapping[str, Any]) -> Decoder:
        """Return the decoder with what it needs to know of these inputs of the encoder."""
        return self._parts.read(self.encode(inputs))


def _row_key(inputs: Mapping[str, Any], row: int) -> tuple[object, ...]:
    return tuple((name, array.shape[1:], np.ascontiguousarray(array[row]).tobytes()) for name, array in inputs.items())


def _mask_of(encoded: Encoded) -> NDArray:
    if encoded.mask is None:
        return np.ones(encoded.hidden.shape[:2], np.int64)
    return np.ascontiguousarray(encoded.mask, dtype=np.int64)


def _origins(encoded: Encoded) -> NDArray:
    """Return for each row the first of those that equal it and stand together."""
    found = np.arange(len(encoded.hidden))
    for row in range(1, len(found)):
        first = found[row - 1]
        if np.array_equal(encoded.hidden[row], encoded.hidden[first]) and (
            encoded.mask is None or np.array_equal(encoded.mask[row], encoded.mask[first])
        ):
            found[row] = first
    return found
