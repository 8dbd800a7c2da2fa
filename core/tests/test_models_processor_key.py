"""A model in memory is another one with another processor, though its weights are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, ViTImageProcessor

from optimum_core import AcceleratedModel, accelerate
from optimum_core.models import fingerprint

Tiny = Callable[[str], Any]


@pytest.fixture
def other_words(tokenizer_file: Path, tmp_path: Path) -> Path:
    """The tokenizer of words with two of them exchanged."""
    shutil.copytree(tokenizer_file, tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"w5"', '"w?"', 1).replace('"w99"', '"w5"', 1).replace('"w?"', '"w99"', 1))
    return tmp_path / "other"


def test_the_processor_that_was_passed_reads_the_texts(
    tiny: Tiny, tokenizer_file: Path, other_words: Path, tmp_path: Path
) -> None:
    def made(words: Path) -> AcceleratedModel:
        settings: dict[str, Any] = {"target": "ort", "level": "all", "shapes": ({"batch": 1},), "budget": 0}
        return accelerate(
            tiny("bert"), processor=AutoTokenizer.from_pretrained(words), cache_dir=tmp_path / "cache", **settings
        )

    with made(tokenizer_file) as one, made(other_words) as two, made(tokenizer_file) as again:
        texts = ["w5 w6"]
        got = [fast.map(texts)["logits"] for fast in (one, two, again)]
        assert not np.allclose(got[0], got[1])
        np.testing.assert_array_equal(got[0], got[2])
        assert again.report is not None and again.report.from_cache
        assert two.report is not None and not two.report.from_cache


def test_what_a_call_leaves_in_a_tokenizer_does_not_count(tokenizer_file: Path, other_words: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_file)
    before = fingerprint.of_processor(tokenizer)
    tokenizer(["w5", "w6 w7"], padding=True, truncation=True, max_length=4)
    assert fingerprint.of_processor(tokenizer) == before
    assert fingerprint.of_processor(AutoTokenizer.from_pretrained(tokenizer_file)) == before
    assert fingerprint.of_processor(AutoTokenizer.from_pretrained(other_words)) != before
    tokenizer.model_max_length = 7
    assert fingerprint.of_processor(tokenizer) != before


def test_where_a_tokenizer_came_from_does_not_count(tokenizer_file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_file)
    before = fingerprint.of_processor(tokenizer)
    tokenizer.init_kwargs.update(is_local=True, local_files_only=True, name_or_path="elsewhere")
    assert fingerprint.of_processor(tokenizer) == before


def test_what_normalizes_otherwise_is_another() -> None:
    one, other = ViTImageProcessor(), ViTImageProcessor(image_mean=[0.1, 0.2, 0.3])
    assert fingerprint.of_processor(one) == fingerprint.of_processor(ViTImageProcessor())
    assert fingerprint.of_processor(one) != fingerprint.of_processor(other)
    assert fingerprint.of_processor(None) == ""
