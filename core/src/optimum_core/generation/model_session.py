"""The session of a whole generative model: it answers one forward call, and gives the decoder to drivers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Protocol

from optimum_core.errors import PluginError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, RunPart
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.plugins import PluginManager
from optimum_core.types import Artifact, Session, SessionRequest, StatefulSession, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import AUDIO, CROSS, DECODER, ENCODER, IDS, IDS_MASK, MERGE, VISION


def text_inputs(names: Collection[str]) -> tuple[str, str]:
    """Return which inputs of the original's call are its decoder's ids and their mask, behind an encoder.

    Models that write about a picture have the names of a lone decoder.

    >>> text_inputs(["pixel_values", "input_ids"])
    ('input_ids', 'attention_mask')
    """
    return (IDS, IDS_MASK) if IDS in names else ("input_ids", "attention_mask")


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

    def started(self, inputs: Mapping[str, Any]) -> tuple[Decoder, NDArray, NDArray | None]:
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
        self.ids, self.ids_mask = text_inputs([spec.name for spec in inputs])

    @property
    def drives(self) -> EncoderDecoder:
        """The parts, which give decoders behind an encoder."""
        return self.parts

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the logits of all positions of the decoder's text, and the encoder's output."""
        encoded = self.parts.encode(inputs)
        generation = self.parts.read(encoded).begin(len(inputs[self.ids]))
        try:
            logits = generation.feed(inputs[self.ids], inputs.get(self.ids_mask))
        finally:
            generation.close()
        return self.outputs_of(logits, encoded.hidden)

    def outputs_of(self, logits: NDArray, hidden: NDArray) -> dict[str, NDArray]:
        """Return the outputs of the original's call: beside logits, each is the encoder's output."""
        return {spec.name: logits if spec.name == "logits" else hidden for spec in self.outputs}

    def started(self, inputs: Mapping[str, Any]) -> tuple[Decoder, NDArray, NDArray | None]:
        """Return the decoder behind the encoder's output, and the first of the decoder's tokens."""
        return self.parts.after(inputs), inputs[self.ids][:, :1], None

    def close(self) -> None:
        """Free all parts."""
        self.parts.close()


class MergeSession(Session, Protocol):
    """The session of part "merge": the original's own code, in torch."""

    def call_tower(self, part: Artifact, run: RunPart) -> None:
        """Let a session of a backend run a tower of the original."""
        ...

    def before(self, decoder: Decoder) -> Decoder:
        """Return the decoder behind the merge: it takes ids."""
        ...

    def host(self, decoder: Decoder, who: str, config: Any, settings: Callable[[], Any], past: Any = None) -> Any:
        """Return the original with its decoder, for one call or generation, from a cache where one is passed."""
        ...

    def run(self, decoder: Decoder, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of a call of the whole."""
        ...


class MergedSession(GenerativeSession):
    """A session with the inputs and outputs of the original's call, on the original's own code and a decoder of
    embeddings behind it.

    Args:
        open_merge: opens part "merge"; it needs torch, and is called when it is first needed.
        towers: the sessions of towers.
    """

    def __init__(
        self,
        decoder: Decoder,
        open_merge: Callable[[], MergeSession],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        towers: Sequence[Session] = (),
    ) -> None:
        super().__init__(decoder, inputs, outputs)
        self._open_merge, self._towers = open_merge, towers

    @cached_property
    def merge(self) -> MergeSession:
        """The session of part "merge"."""
        return self._open_merge()

    @cached_property
    def behind(self) -> Any:
        """The decoder of ids, behind the merge."""
        return self.merge.before(self.decoder)

    @property
    def drives(self) -> Decoder:
        """The decoder of ids, behind the merge."""
        return self.behind  # type: ignore[no-any-return]

    def host(self, who: str, config: Any, settings: Callable[[], Any], past: Any = None) -> Any:
        """Return the original as `GenerationMixin` sees it, for one call or generation."""
        return self.merge.host(self.behind, who, config, settings, past)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the original's call."""
        return self.merge.run(self.behind, inputs)

    def started(self, inputs: Mapping[str, Any]) -> tuple[Decoder, NDArray, NDArray | None]:
        """Return the decoder behind pictures, the tokens of the prompt, and their mask."""
        further = {name: array for name, array in inputs.items() if name not in ("input_ids", "attention_mask")}
        return self.behind.behind(further), inputs["input_ids"], inputs.get("attention_mask")

    def close(self) -> None:
        """Free all parts."""
        super().close()
        for tower in self._towers:
            tower.close()
        if "merge" in vars(self):
            self.merge.close()


def open_session(plugins: PluginManager, request: SessionRequest) -> Session:
    """Open an artifact of one graph, or the parts of a generative one.

    Raises:
        UnavailableError: it has parts that no driver here knows.
        OptimumError: as `PluginManager.load_session`.
    """
    parts = request.artifact.parts
    if not parts:
        return plugins.load_session(request)
    if set(parts) - (TOWERS if MERGE in parts else set()) not in _DRIVEN:
        unknown = ", ".join(sorted(set(parts))) or "no decoder"
        raise UnavailableError("artifact", f"its parts cannot be driven: {unknown}", "pip install -U optimum-core")
    opened = {
        name: plugins.load_session(replace(request, artifact=part, part=name))
        for name, part in parts.items()
        if name != MERGE
    }
    decoder = Decoder(_stateful(opened[DECODER], request), plugins.binder)
    inputs, outputs = request.artifact.inputs, request.artifact.outputs
    if MERGE in parts:
        towers = {name: opened[name] for name in opened if name in TOWERS}
        return MergedSession(decoder, partial(_merge, plugins, request, towers), inputs, outputs, [*towers.values()])
    if ENCODER not in opened:
        return GenerativeSession(decoder, inputs, outputs)
    whole = EncoderDecoder(opened[ENCODER], opened.get(CROSS), decoder, plugins.binder)
    return EncoderDecoderSession(whole, inputs, outputs)


#: Parts that the merge calls, where it has them.
TOWERS = frozenset({VISION, AUDIO})
#: The sets of other parts that can be driven; without part "cross", the decoder takes hidden states.
_DRIVEN = ({DECODER}, {MERGE, DECODER}, {ENCODER, DECODER}, {ENCODER, CROSS, DECODER})


def _merge(plugins: PluginManager, request: SessionRequest, towers: Mapping[str, Session]) -> Any:
    """Return the session of part "merge" with its towers, of the backend that wrote it.

    Raises:
        UnavailableError: torch or transformers are not installed.
    """
    part = request.artifact.parts[MERGE]
    own = replace(request, artifact=part, part=MERGE)
    if not part.steps:  # of the eager model
        return plugins.load_session(own)
    backend = part.steps[0].backend
    if not plugins.support(backend, request.hardware).offers:
        raise UnavailableError(
            "a model of pictures or sound with text",
            "what its towers see is put between its tokens by the original's own code, and torch or transformers is "
            "not installed",
            "pip install 'optimum-core[export]'",
        )
    own = replace(own, backend=backend, device="cpu", level=None, precision="fp32", options={})
    merge: Any = plugins.load_session(own)
    for name, session in towers.items():
        merge.call_tower(request.artifact.parts[name], plugins.binder(session))
    return merge


def _stateful(session: Session, request: SessionRequest) -> StatefulSession:
    if not isinstance(session, StatefulSession):
        raise PluginError(
            f"backend {request.backend!r}",
            "its session of a decoder has no begin(rows)",
            "report it to its authors: an offer's `stateful` promises it",
        )
    return session


def run_function(plugins: PluginManager, session: Session) -> RunPart:
    """Return the function that runs a session, whether of one graph or of parts."""
    return session.run if isinstance(session, GenerativeSession) else plugins.binder(session)
