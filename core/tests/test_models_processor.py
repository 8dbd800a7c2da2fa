"""A model's own processor says what users will feed; one that cannot is done without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from optimum_core.models.inputs.processor import TEXTS, processed
from optimum_core.models.signatures.signature import describe


class Words:
    """A tokenizer as far as it is asked: one id per word, modulo a small vocabulary."""

    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, pad_token: str | None = "[PAD]") -> None:
        self.pad_token = pad_token

    def __call__(self, *, text: list[str], padding: bool = False, truncation: bool = False, return_tensors: str) -> Any:
        assert return_tensors == "np"
        rows = [[sum(word.encode()) % 100 + 10 for word in line.split()] for line in text]
        longest = max(map(len, rows))
        if len({len(row) for row in rows}) > 1 and (not padding or self.pad_token is None):
            raise ValueError("asking to pad without a padding token")
        return {
            "input_ids": np.array([row + [0] * (longest - len(row)) for row in rows]),
            "attention_mask": np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        }


def test_texts_of_several_lengths_are_padded() -> None:
    arrays = processed(Words(), ["input_ids", "attention_mask"])
    assert arrays is not None
    assert arrays["input_ids"].shape[0] == len(TEXTS)
    assert 0 < arrays["attention_mask"].mean() < 1


def test_without_a_padding_token_it_is_one_text() -> None:
    arrays = processed(Words(pad_token=None), ["input_ids", "attention_mask"])
    assert arrays is not None
    assert arrays["input_ids"].shape[0] == 1


def test_pictures_come_out_at_the_size_of_the_processor() -> None:
    arrays = processed(ViTImageProcessor(size={"height": 32, "width": 32}), ["pixel_values"])
    assert arrays is not None
    assert arrays["pixel_values"].shape == (3, 3, 32, 32)
    assert np.ptp(arrays["pixel_values"]) > 0.5


@pytest.mark.parametrize("extractor", [Wav2Vec2FeatureExtractor(), WhisperFeatureExtractor()])
def test_sounds_become_what_the_extractor_makes(extractor: Any) -> None:
    name = extractor.model_input_names[0]
    arrays = processed(extractor, [name])
    assert arrays is not None
    assert arrays[name].shape[0] == 2
    assert np.isfinite(arrays[name]).all()
    assert arrays[name].std() > 0


def test_an_input_that_the_processor_does_not_make_is_not_made_up() -> None:
    assert processed(Words(), ["input_ids", "bbox"]) is None


def test_a_processor_that_fails_is_done_without() -> None:
    def fails(**arguments: Any) -> Any:
        raise RuntimeError("no sentencepiece")

    assert processed(fails, ["input_ids"]) is None


def test_the_processors_output_is_part_of_the_blueprint(tiny: Callable[[str], Any]) -> None:
    signature = describe(tiny("bert"), name="bert", processor=Words())
    assert [spec.name for spec in signature.inputs] == ["input_ids", "attention_mask"]
    assert signature.real is not None
    assert set(signature.real) == {"input_ids", "attention_mask"}
    length = signature.real["input_ids"].shape[1]
    assert signature.pinned("sequence", length).real is not None
    assert signature.pinned("sequence", length + 1).real is None


def test_a_processor_of_another_model_is_no_evidence(tiny: Callable[[str], Any]) -> None:
    signature = describe(tiny("vit"), name="vit", processor=ViTImageProcessor(size={"height": 64, "width": 64}))
    assert signature.real is None
