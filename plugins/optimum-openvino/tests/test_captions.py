"""Captions of pictures by BLIP in OpenVINO: its texts, and its call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.measure import Effort, measuring
from optimum_core.testing.encoder_decoders import encoder_decoder

_NEW = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
PROMPTS = torch.tensor([[0, 0, 1, 5, 9], [1, 23, 31, 4, 9], [0, 1, 7, 8, 9]])


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield accelerate(
            encoder_decoder("blip"), target="openvino", cache_dir=tmp_path_factory.mktemp("cache"), budget=0
        )


def pixels(rows: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).standard_normal((rows, 3, 16, 16)).astype(np.float32))


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_it_writes_what_eager_writes(blip: Any, beams: int, with_prompt: bool) -> None:
    prompt = {"input_ids": PROMPTS, "attention_mask": (PROMPTS > 0).long()} if with_prompt else {}
    wanted, found = (
        # It writes its first token into the ids that it is passed.
        model.generate(pixels(3), **{name: tensor.clone() for name, tensor in prompt.items()}, num_beams=beams, **_NEW)
        for model in (encoder_decoder("blip"), blip)
    )
    assert torch.equal(wanted, found)
    assert len(set(found.flatten().tolist())) > 8


def test_a_call_answers_as_eager_does_and_texts_after_load_too(blip: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        wanted = encoder_decoder("blip")(pixels(3), input_ids=PROMPTS)
    found = blip(pixels(3), input_ids=PROMPTS)
    assert list(found) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-4)
    blip.save_pretrained(tmp_path / "saved")
    texts = load(tmp_path / "saved").generate(pixels(3).numpy(), max_new_tokens=40)
    assert texts.tolist() == encoder_decoder("blip").generate(pixels(3), max_new_tokens=40).tolist()
