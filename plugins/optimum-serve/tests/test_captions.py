"""Captions of pictures, in turns with other texts; and models that write behind something else than a text."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from optimum_core import accelerate, load
from optimum_core.measure import Effort, measuring
from optimum_core.testing.encoder_decoders import VOCABULARY, encoder_decoder
from optimum_serve import ModelSettings

WORDS = [f"w{number}" for number in range(VOCABULARY)]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("captioner")
    encoder_decoder("vit_gpt2").save_pretrained(folder / "source")
    own = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="w0", eos_token="w2").save_pretrained(folder / "source")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "source")
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    with quick, accelerate(folder / "source", target="ort", budget=0, cache_dir=folder / "cache") as fast:
        fast.save_pretrained(folder / "made")
    return folder / "made"


def _files(count: int) -> list[bytes]:
    drawn = np.random.default_rng(1).integers(0, 255, (count, 20, 24, 3)).astype(np.uint8)
    files = []
    for one in drawn:
        file = io.BytesIO()
        Image.fromarray(one).save(file, "PNG")
        files.append(file.getvalue())
    return files


def test_what_is_on_a_picture_is_written_as_the_model_writes_it(captioner: Path, serve: Any) -> None:
    live = serve(ModelSettings(source=str(captioner), name="captioner"))
    files = _files(3)
    with load(captioner) as model:
        items = model.prepare([Image.open(io.BytesIO(file)) for file in files])
        rows = model.generate(np.stack([item["pixel_values"] for item in items]), max_new_tokens=12)
        want = [model.plain_tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in rows]
    assert len(set(want)) > 1
    sent = [("file", (f"{number}.png", file, "image/png")) for number, file in enumerate(files)]
    found = live.client.post("/models/captioner/predict", files=sent, data={"max_new_tokens": "12"})
    assert found.status_code == 200, found.text
    assert [item[0]["generated_text"] for item in found.json()] == want
    one = live.client.post("/models/captioner", content=files[0])  # as the hub's client sends it
    assert list(one.json()[0]) == ["generated_text"]
    assert live.client.get("/status.json").json()["models"][0]["kind"] == "captions"
    refused = live.client.post("/models/captioner/predict", files=sent, data={"top_k": "2"})
    assert refused.status_code == 422 and "top_k" in refused.json()["error"]
    behind = live.client.post("/v1/completions", json={"model": "captioner", "prompt": "w5"})
    assert behind.status_code == 400 and "writes text behind a text" in behind.json()["error"]["message"]
    live.stop()
