"""The session of a whole generative model: it answers one forward call, and gives the decoder to drivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optimum_core.errors import PluginError, UnavailableError
from optimum_core.generation.decoder import Decoder, Infer
from optimum_core.plugins import PluginManager
from optimum_core.types import Session, SessionRequest, StatefulSession, TensorSpec

DECODER = "decoder"


class GenerativeSession:
    """A session with the inputs and outputs of the original's call, on the session of its decoder."""

    def __init__(self, decoder: Decoder, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.decoder = decoder
        self.inputs, self.outputs = inputs, outputs
        self.backend, self.device = decoder.session.backend, decoder.session.device

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the logits of all positions of a text, as the original's forward pass does."""
        generation = self.decoder.begin(len(inputs["input_ids"]))
        try:
            positions = inputs.get("position_ids", "assumed")
            return {"logits": generation.feed(inputs["input_ids"], inputs.get("attention_mask"), positions)}
        finally:
            generation.close()

    def close(self) -> None:
        """Free the decoder."""
        self.decoder.session.close()


def open_session(plugins: PluginManager, request: SessionRequest) -> Session:
    """Open an artifact of one graph, or the parts of a generative one.

    Raises:
        UnavailableError: it has parts that no driver here knows.
        OptimumError: as `PluginManager.load_session`.
    """
    parts = request.artifact.parts
    if not parts:
        return plugins.load_session(request)
    if set(parts) != {DECODER}:
        unknown = ", ".join(sorted(set(parts) - {DECODER})) or "no decoder"
        raise UnavailableError("artifact", f"its parts cannot be driven: {unknown}", "pip install -U optimum-core")
    session = plugins.load_session(replace(request, artifact=parts[DECODER]))
    if not isinstance(session, StatefulSession):
        raise PluginError(
            f"backend {request.backend!r}",
            "its session of a decoder has no begin(rows)",
            "report it to its authors: an offer's `stateful` promises it",
        )
    return GenerativeSession(Decoder(session, plugins.binder), request.artifact.inputs, request.artifact.outputs)


def bound(plugins: PluginManager, session: Session) -> Infer:
    """Return the function that runs a session, whether of one graph or of parts."""
    return session.run if isinstance(session, GenerativeSession) else plugins.binder(session)
