"""Classes of sounds that come as WAV files, and files that are no such sounds."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core import accelerate, load
from optimum_core.measure import Effort, measuring
from optimum_core.testing.kinds import tiny_module
from optimum_serve import ModelSettings

RATE = 16000


def _wav(samples: Any, *, channels: int = 1, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(channels)
        made.setsampwidth(2)
        made.setframerate(rate)
        made.writeframes(np.asarray(samples, "<i2").tobytes())
    return file.getvalue()


def _drawn(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-20000, 20000, count)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Wav2Vec2FeatureExtractor

    folder = tmp_path_factory.mktemp("sounds")
    tiny_module("wav2vec2 classifier").save_pretrained(folder / "source")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(folder / "source")
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    with quick, accelerate(folder / "source", target="ort", budget=0, cache_dir=folder / "cache") as fast:
        fast.save_pretrained(folder / "made")
    return folder / "made"


@pytest.fixture(scope="module")
def listening(made: Path, serve: Any) -> Iterator[Any]:
    live = serve(ModelSettings(source=str(made), name="sounds"))
    yield live
    live.stop()


def _post(live: Any, content: bytes) -> Any:
    return live.client.post("/models/sounds/predict", content=content, headers={"Content-Type": "audio/wav"})


def test_classes_are_those_of_the_model(listening: Any, made: Path) -> None:
    samples = _drawn(4000)
    with load(made) as model:
        item = {"array": (samples / 2**15).astype(np.float32), "sampling_rate": RATE}
        logits = model.map([item], progress=False).logits[0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    for content in (_wav(samples), _wav(np.repeat(samples, 2), channels=2)):
        found = _post(listening, content)
        assert found.status_code == 200, found.text
        scores = [score["score"] for score in found.json()]
        assert scores == pytest.approx(sorted(shares / shares.sum(), reverse=True), abs=1e-4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_wav(_drawn(400))[:-1], "within a sample"),
        (_wav(_drawn(402), channels=2)[:-2], "within a sample"),
        (_wav([]), "empty"),
        (_wav(_drawn(400))[:30], "no WAV file"),
        (b"RIFF" + bytes(100), "no WAV file"),
        (_wav(_drawn(400)).replace(b"WAVE", b"WAVE" * 2), "no WAV file"),
        (_wav(np.zeros(121 * 100), rate=100), "longer than 120 s"),
    ],
)
def test_files_that_are_no_such_sounds_are_refused(content: bytes, said: str, listening: Any) -> None:
    answer = _post(listening, content)
    assert answer.status_code in (413, 422) and said in answer.json()["error"], answer.text
