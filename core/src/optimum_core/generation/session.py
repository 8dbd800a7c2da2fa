"""The session of a whole generative model: it answers one forward call, and gives the decoder to drivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.errors import PluginError, UnavailableError
from optimum_core.generation.decoder import Decoder, Infer
from optimum_core.generation.encoder_decoder import EncoderDecoder
from optimum_core.plugins import PluginManager
from optimum_core.types import Session, SessionRequest, StatefulSession, TensorSpec
from optimum_core.types.state import CROSS, DECODER, ENCODER

Array = np.ndarray[Any, Any]
#: The inputs of the original's call that are the decoder's.
IDS, IDS_MASK = "decoder_input_ids", "decoder_attention_mask"


class GenerativeSession:
    """A session with the inputs and outputs of the original's call, on the session of its decoder."""

    def __init__(self, decoder: Decoder, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.decoder = decoder
        self.inputs, self.outputs = inputs, outputs
        self.backend, self.device = decoder.session.backend, decoder.session.device

    @property
    def drives(self) -> Decoder | EncoderDecoder:
        """The decoder, or what gives decoders behind an encoder."""
        return self.decoder

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the logits of all positions of a text, as the original's forward pass does."""
        generation = self.decoder.begin(len(inputs["input_ids"]))
        try:
            positions = inputs.get("position_ids", "assumed")
            return {"logits": generation.feed(inputs["input_ids"], inputs.get("attention_mask"), positions)}
        finally:
            generation.close()

    def started(self, inputs: Mapping[str, Any]) -> tuple[Decoder, Array, Array | None]:
        """Return the decoder that goes on from inputs of a call, its first tokens, and their mask."""
        return self.decoder, inputs["input_ids"], inputs.get("attention_mask")

    def close(self) -> None:
        """Free the decoder."""
        self.decoder.session.close()


class EncoderDecoderSession(GenerativeSession):
    """A session with the inputs and outputs of the original's call, on the sessions of its encoder and decoder."""

    def __init__(self, parts: EncoderDecoder, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__(parts.decoder, inputs, outputs)
        self.parts = parts

    @property
    def drives(self) -> EncoderDecoder:
        """The parts, which give decoders behind an encoder."""
        return self.parts

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the logits of all positions of the decoder's text, and the encoder's output."""
        encoded = self.parts.encode(inputs)
        generation = self.parts.read(encoded).begin(len(inputs[IDS]))
        try:
            logits = generation.feed(inputs[IDS], inputs.get(IDS_MASK))
        finally:
            generation.close()
        return {"logits": logits, "encoder_last_hidden_state": encoded.hidden}

    def started(self, inputs: Mapping[str, Any]) -> tuple[Decoder, Array, Array | None]:
        """Return the decoder behind the encoder's output, and the first of the decoder's tokens."""
        return self.parts.after(inputs), inputs[IDS][:, :1], None

    def close(self) -> None:
        """Free all parts."""
        self.parts.close()


def open_session(plugins: PluginManager, request: SessionRequest) -> Session:
    """Open an artifact of one graph, or the parts of a generative one.

    Raises:
        UnavailableError: it has parts that no driver here knows.
        OptimumError: as `PluginManager.load_session`.
    """
    parts = request.artifact.parts
    if not parts:
        return plugins.load_session(request)
    if set(parts) not in _DRIVEN:
        unknown = ", ".join(sorted(set(parts))) or "no decoder"
        raise UnavailableError("artifact", f"its parts cannot be driven: {unknown}", "pip install -U optimum-core")
    opened = {name: plugins.load_session(replace(request, artifact=part, part=name)) for name, part in parts.items()}
    decoder = Decoder(_stateful(opened[DECODER], request), plugins.binder)
    inputs, outputs = request.artifact.inputs, request.artifact.outputs
    if ENCODER not in opened:
        return GenerativeSession(decoder, inputs, outputs)
    whole = EncoderDecoder(opened[ENCODER], opened.get(CROSS), decoder, plugins.binder)
    return EncoderDecoderSession(whole, inputs, outputs)


#: The sets of parts that can be driven; without part "cross", the decoder takes hidden states.
_DRIVEN = ({DECODER}, {ENCODER, DECODER}, {ENCODER, CROSS, DECODER})


def _stateful(session: Session, request: SessionRequest) -> StatefulSession:
    if not isinstance(session, StatefulSession):
        raise PluginError(
            f"backend {request.backend!r}",
            "its session of a decoder has no begin(rows)",
            "report it to its authors: an offer's `stateful` promises it",
        )
    return session


def bound(plugins: PluginManager, session: Session) -> Infer:
    """Return the function that runs a session, whether of one graph or of parts."""
    return session.run if isinstance(session, GenerativeSession) else plugins.binder(session)
