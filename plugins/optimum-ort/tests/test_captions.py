"""Captions of pictures by an encoder-decoder on ONNX Runtime, through transformers' own pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from optimum_core import accelerate
from optimum_core.measure import Effort, measuring
from optimum_core.testing.encoder_decoders import VOCABULARY, encoder_decoder


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield accelerate(
            encoder_decoder("vit_gpt2"), target="ort", cache_dir=tmp_path_factory.mktemp("cache"), budget=1,
        )  # fmt: skip


def processor() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import DonutProcessor, PreTrainedTokenizerFast, ViTImageProcessorPil

    own = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="w0", pad_token="w0", eos_token="w2")
    pictures = ViTImageProcessorPil(size={"height": 16, "width": 16})
    return DonutProcessor(image_processor=pictures, tokenizer=tokenizer)


def test_the_pipeline_writes_what_it_writes_with_eager(fast: Any) -> None:
    from transformers import pipeline

    pixels = np.random.default_rng(1).integers(0, 255, (2, 20, 24, 3)).astype(np.uint8)
    asked = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    written = [
        [write(images=Image.fromarray(one), text="w7 w8", generate_kwargs=asked) for one in pixels]
        for write in (
            pipeline("image-text-to-text", model=model, processor=processor())
            for model in (encoder_decoder("vit_gpt2"), fast)
        )
    ]
    assert written[0] == written[1]
    assert written[0][0] != written[0][1]
