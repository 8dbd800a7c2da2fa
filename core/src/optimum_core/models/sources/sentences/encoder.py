"""A sentence encoder: a transformer with pooling and further modules behind it, as one module."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import ModelOutput

from optimum_core.artifact.embedding import MODULES, POOLING_MASK, SENTENCE, TOKENS, write_object
from optimum_core.models.sources.sentences.heads import MASK, Features, Head, Pooling

_TRANSFORMER = "sentence_transformers.models.Transformer"


@dataclass
class SentenceOutput(ModelOutput):  # type: ignore[misc]
    """The output of a sentence encoder.

    Attributes:
        token_embeddings: [batch, sequence, width].
        sentence_embedding: [batch, dimensions].
    """

    token_embeddings: torch.Tensor | None = None
    sentence_embedding: torch.Tensor | None = None


class SentenceEncoder(torch.nn.Module):
    """A transformer of texts with the modules behind it.

    Args:
        transformer: returns `last_hidden_state`.
        heads: the modules behind it, in order.
    """

    main_input_name = "input_ids"

    def __init__(self, transformer: Any, heads: Sequence[Head]) -> None:
        super().__init__()
        self.transformer = transformer
        self.heads = torch.nn.ModuleList(heads)
        self.config = transformer.config
        self._taken = frozenset(inspect.signature(transformer.forward).parameters)

    @property
    def name_or_path(self) -> str:
        """The name or path from which the transformer was loaded."""
        return str(getattr(self.transformer, "name_or_path", ""))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SentenceOutput:
        """Return the vectors of the tokens and of the whole texts."""
        return self._encoded(input_ids, attention_mask, token_type_ids, {})

    def _encoded(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        types: torch.Tensor | None,
        features: Features,
    ) -> SentenceOutput:
        mask = torch.ones_like(ids) if mask is None else mask
        further: dict[str, Any] = {"return_dict": True}
        if types is not None and "token_type_ids" in self._taken:
            further["token_type_ids"] = types
        if "use_cache" in self._taken:
            further["use_cache"] = False
        tokens = self.transformer(input_ids=ids, attention_mask=mask, **further).last_hidden_state
        features = {**features, TOKENS: tokens, MASK: mask}
        for head in self.heads:
            features = head(features)
        return SentenceOutput(token_embeddings=features[TOKENS], sentence_embedding=features[SENTENCE])

    def save_pretrained(self, directory: Path) -> None:
        """Write the directory as sentence-transformers does, without its settings."""
        self.transformer.save_pretrained(directory)
        self.save_modules(directory)

    def save_modules(self, directory: Path) -> None:
        """Write the list of modules, with the settings and the weights of those behind the transformer."""
        modules = [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}]
        for number, head in enumerate(self.heads, 1):
            assert isinstance(head, Head)
            place = f"{number}_{head.kind}"
            head.save(Path(directory) / place)
            modules.append({"idx": number, "name": str(number), "path": place, "type": head.path})
        write_object(Path(directory) / MODULES, modules)


class PromptlessEncoder(SentenceEncoder):
    """A sentence encoder whose pooling leaves the tokens of the prompt out."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pooling_mask: torch.Tensor | None = None,
    ) -> SentenceOutput:
        """Return what a `SentenceEncoder` does; `pooling_mask` is 0 at tokens that are not pooled."""
        features = {} if pooling_mask is None else {POOLING_MASK: pooling_mask}
        return self._encoded(input_ids, attention_mask, token_type_ids, features)


def encoder_of(transformer: Any, heads: Sequence[Head]) -> SentenceEncoder:
    """Return the sentence encoder of these modules, in the transformer's own mode of training or evaluation."""
    whole = all(head.include_prompt for head in heads if isinstance(head, Pooling))
    made = (SentenceEncoder if whole else PromptlessEncoder)(transformer, heads)
    made.heads.train(transformer.training)
    made.training = transformer.training
    return made
