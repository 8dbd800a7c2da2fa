"""Captions of pictures on ONNX Runtime: an encoder-decoder through transformers' own pipeline, and BLIP."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from optimum_core import accelerate, load
from optimum_core.errors import UnavailableError
from optimum_core.measure import Effort, measuring
from optimum_core.testing.encoder_decoders import VOCABULARY, encoder_decoder

_NEW = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield {
            kind: accelerate(
                encoder_decoder(kind), target="ort", cache_dir=tmp_path_factory.mktemp("cache"), budget=1,
            )
            for kind in ("vit_gpt2", "blip")
        }  # fmt: skip


def processor(kind: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BlipProcessor, DonutProcessor, PreTrainedTokenizerFast, ViTImageProcessorPil

    own = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="w0", pad_token="w0", eos_token="w2")
    pictures = ViTImageProcessorPil(size={"height": 16, "width": 16})
    made = {"vit_gpt2": DonutProcessor, "blip": BlipProcessor}[kind]
    return made(image_processor=pictures, tokenizer=tokenizer)


def pixels(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).standard_normal((rows, 3, 16, 16)).astype(np.float32))


@pytest.mark.parametrize("kind", ["vit_gpt2", "blip"])
def test_the_pipeline_writes_what_it_writes_with_eager(models: dict[str, Any], kind: str) -> None:
    from transformers import pipeline

    drawn = np.random.default_rng(1).integers(0, 255, (2, 20, 24, 3)).astype(np.uint8)
    written = [
        [write(images=Image.fromarray(one), text="w7 w8 w9", generate_kwargs=_NEW) for one in drawn]
        for write in (
            pipeline("image-text-to-text", model=model, processor=processor(kind))
            for model in (encoder_decoder(kind), models[kind])
        )
    ]
    assert written[0] == written[1]
    assert written[0][0] != written[0][1]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_blip_writes_what_eager_writes(models: dict[str, Any], beams: int, with_prompt: bool) -> None:
    ids = torch.tensor([[0, 0, 1, 5, 9], [1, 23, 31, 4, 9], [0, 1, 7, 8, 9]])
    prompt = {"input_ids": ids, "attention_mask": (ids > 0).long()} if with_prompt else {}
    wanted, found = (
        # It writes its first token into the ids that it is passed.
        model.generate(pixels(3), **{name: tensor.clone() for name, tensor in prompt.items()}, num_beams=beams, **_NEW)
        for model in (encoder_decoder("blip"), models["blip"])
    )
    assert torch.equal(wanted, found)
    assert len(set(found.flatten().tolist())) > 8


def test_a_call_of_blip_answers_as_eager_does(models: dict[str, Any]) -> None:
    ids = torch.tensor([[1, 5, 9], [1, 8, 4]])
    with torch.no_grad():
        wanted = encoder_decoder("blip")(pixels(2), input_ids=ids)
    found = models["blip"](pixels(2), input_ids=ids)
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-4)


def test_a_loaded_blip_begins_and_ends_its_texts_as_eager_does_without_torch(
    models: dict[str, Any], tmp_path: Path
) -> None:
    models["blip"].save_pretrained(tmp_path / "saved")
    pictures = pixels(3)
    wanted = encoder_decoder("blip").generate(pictures, max_new_tokens=40)
    assert (wanted == encoder_decoder("blip").config.text_config.sep_token_id).any(), (
        "no row ends: it would show nothing"
    )
    found = load(tmp_path / "saved").generate(pictures.numpy(), max_new_tokens=40)
    assert found.tolist() == wanted.tolist()


def test_pictures_of_other_sizes_are_refused_by_blip(models: dict[str, Any]) -> None:
    with pytest.raises(UnavailableError, match="interpolate_pos_encoding"):
        models["blip"].generate(pixels(1), interpolate_pos_encoding=True)
