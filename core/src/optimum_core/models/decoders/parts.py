"""The parts that a model is exported as, and their interfaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.decoder_signature import DecoderSignature, MergeSignature, PartSignature
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import StateSpec
from optimum_core.types.state import CROSS, DECODER, ENCODER, MERGE

Part = PartSignature | MergeSignature | DecoderSignature


def parts_of(signature: ModelSignature, *, eager: bool = False) -> Mapping[str, Part]:
    """Return the parts of a generative model by name; nothing for a model of one graph.

    Args:
        eager: of the eager model, whose decoder computes cross attention itself.
    """
    decoder = signature.decoder
    if decoder is None:
        return {}
    if decoder.merge is not None:
        return {MERGE: decoder.merge, DECODER: decoder}
    if decoder.encoder is None:
        return {DECODER: decoder}
    before = decoder.encoder
    if eager:
        return {ENCODER: before.encoder, DECODER: replace(decoder, inputs=before.eager_inputs)}
    return {ENCODER: before.encoder, CROSS: before.cross, DECODER: decoder}


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A model, or a part of one, to export as one graph.

    Attributes:
        name: the part's name; "": the model itself.
    """

    signature: ModelSignature
    name: str = ""
    part: Part | None = None

    @property
    def interface(self) -> ModelSignature | Part:
        return self.part if self.part is not None else self.signature

    @property
    def state(self) -> StateSpec | None:
        return self.part.state if self.part is not None else None

    @property
    def title(self) -> str:
        """The beginning of its name in the events of a search; a lone decoder has none."""
        return f"{self.name}: " if self.name not in ("", DECODER) else ""

    def samples(self) -> Mapping[str, Any]:
        """Return inputs to trace with."""
        return self.part.samples() if self.part is not None else self.signature.draw(Case(name="traced"))


def graphs_of(signature: ModelSignature) -> Iterator[Graph]:
    """Yield what is exported of a model: its parts, or itself in one graph."""
    parts = parts_of(signature)
    if not parts:
        yield Graph(signature=signature)
    for name, part in parts.items():
        yield Graph(signature=signature, name=name, part=part)
