"""A program of a user of acme, which prints its results as JSON; then the conformance kit on acme, in this process."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from optimum_core import accelerate


def main(cache: str) -> None:
    """Accelerate a tiny BERT with whatever is installed, and compare a call with the eager model's."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = BertForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.randint(5, 100, (3, 11)), "attention_mask": torch.ones(3, 11, dtype=torch.int64)}
    inputs["attention_mask"][1:, 6:] = 0
    with torch.no_grad():
        want = model(**inputs).logits
    fast = accelerate(model, shapes=({"batch": 1},), budget=0, cache_dir=cache)
    got = fast(**inputs).logits
    assert fast.report is not None and fast.report.chosen is not None
    result = {
        "chosen": fast.report.chosen.backend,
        "tried": sorted({item.backend for item in fast.report.candidates}),
        "error": float((got - want).abs().max() / want.abs().max()),
    }
    fast.close()
    sys.stdout.write(f"{json.dumps(result)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
    warnings = ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")  # of what is imported already
    sys.exit(
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", "optimum_core.testing.fixtures", *warnings, sys.argv[2]])
    )
