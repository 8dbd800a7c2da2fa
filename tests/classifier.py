"""A classifier with its tokenizer, rows to calibrate on, and others that it labelled itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core import AcceleratedModel
from optimum_core.types import QuantizeConfig

WORDS = [f"w{number}" for number in range(110)]
#: Rows to calibrate on, and others to evaluate on.
_DRAWN = np.random.default_rng(5)
TEXTS = [" ".join(_DRAWN.choice(WORDS, size=_DRAWN.integers(4, 12))) for _ in range(96)]
CALIBRATION, HELD = TEXTS[:48], TEXTS[48:]
DYNAMIC = QuantizeConfig(scheme="dynamic")
#: Rows of one call: a batch that the comparison with eager covers.
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A classifier in a directory with its tokenizer, and rows labelled by what it says itself.

    Attributes:
        rows: (text, label), the label being eager's own arg-max: its accuracy is 1.
    """

    directory: Path
    model: Any
    tokenizer: Any
    rows: list[tuple[str, int]]

    def score(self, fast: AcceleratedModel) -> float:
        """Accuracy of an accelerated model."""
        guessed: list[int] = []
        for start in range(0, len(self.rows), _BATCH):
            texts = [text for text, _ in self.rows[start : start + _BATCH]]
            inputs = self.tokenizer(texts, padding=True, return_tensors="np")
            guessed += np.asarray(fast(**inputs).logits).argmax(axis=-1).tolist()
        return float(np.mean(np.equal(guessed, [label for _, label in self.rows])))


def classifier(model: Any, directory: Path) -> Classifier:
    """Save a classifier of words and its tokenizer in a directory, and let it label rows."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    splitting = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    splitting.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitting, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    inputs = tokenizer(HELD, padding=True, return_tensors="pt")
    with torch.no_grad():
        labels = model(**inputs).logits.argmax(dim=-1).tolist()
    assert len(set(labels)) > 1, "a model that says one thing alone cannot lose anything"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    rows = list(zip(HELD, labels, strict=True))
    return Classifier(directory=directory, model=model, tokenizer=tokenizer, rows=rows)
