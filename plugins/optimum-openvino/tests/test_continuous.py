"""Continuous batching by openvino-genai: the tokens of the session itself, whatever else is written beside them."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from letters import write_letters
from optimum_core import accelerate, load
from optimum_core.errors import InputError, SessionError, UnavailableError, VerificationError
from optimum_core.generation.continuous import sampling_of
from optimum_core.generation.settings import read_settings
from optimum_core.measure import Effort, measuring
from optimum_core.testing.kinds import tiny_module
from optimum_core.types import ContinuousLimits, Progress

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None, reason="openvino-genai is not installed"
)
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}:"


def _accelerated(folder: Path, kind: str) -> Path:
    tiny_module(kind, vocab_size=258, max_position_embeddings=256, bos_token_id=256, eos_token_id=257).save_pretrained(
        folder / "source"
    )
    write_letters(folder / "source", TEMPLATE)
    asked: dict[str, Any] = {"target": "openvino", "budget": 0, "shapes": [(1, 8, 4)]}
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    with quick, accelerate(folder / "source", cache_dir=folder / "cache", **asked) as fast:
        fast.save_pretrained(folder / "made")
    return folder / "made"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _accelerated(tmp_path_factory.mktemp("continuous"), "llama")


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Any]:
    with load(artifact) as opened:
        yield opened


@pytest.fixture(scope="module")
def texts(model: Any) -> Iterator[Any]:
    made = model.continuous_batching(ContinuousLimits(rows=4, tokens=32, cache=4_000_000))
    yield made
    made.close()


def _written(texts: Any, *begun: Any) -> list[str]:
    found = {text: "".join(text.pieces) for text in begun}
    while not all(text.ended for text in begun):
        for text in texts.step():
            found[text] += "".join(text.pieces)
    return [found[text] for text in begun]


@needs_genai
def test_many_texts_at_once_are_those_of_the_session_alone(model: Any, texts: Any) -> None:
    prompts = ["a", "the quick brown fox", "b" * 100, "the quick brown fox jumps", "c", "dd" * 40]  # more than rows
    settings: list[dict[str, Any]] = [
        {"max_new_tokens": 20},
        {"max_new_tokens": 9},
        {"max_new_tokens": 12, "repetition_penalty": 1.4},
        {"max_new_tokens": 30, "temperature": 1.0, "top_k": 1},
        {"max_new_tokens": 1},
        {"max_new_tokens": 15, "eos_token_id": [7, 70]},
    ]
    first = [texts.begin(prompt, **stated) for prompt, stated in zip(prompts[:3], settings[:3], strict=True)]
    texts.step()
    later = [texts.begin(prompt, **stated) for prompt, stated in zip(prompts[3:], settings[3:], strict=True)]
    want = [model.generate(prompt, **stated) for prompt, stated in zip(prompts, settings, strict=True)]
    assert _written(texts, *first, *later) == want
    chat = [{"role": "user", "content": "the quick brown fox jumps over"}]
    again = texts.begin(chat, max_new_tokens=20)  # its beginning is in the cache
    assert _written(texts, again) == [model.generate(chat, max_new_tokens=20)]


@needs_genai
def test_a_stop_string_and_a_cancel_end_a_text_and_free_its_place(model: Any, texts: Any) -> None:
    whole = model.generate("stop", max_new_tokens=30)
    end = whole[4:6]
    gone = [texts.begin("x" * 40, max_new_tokens=200) for _ in range(4)]
    texts.step()
    for text in gone:
        texts.cancel(text)
    stopped = texts.begin("stop", [end], max_new_tokens=30)
    assert _written(texts, stopped) == [whole[: whole.index(end)]]
    assert not texts.step()


@needs_genai
def test_draws_have_the_shares_of_the_session(model: Any, texts: Any) -> None:
    """400 first tokens, of which only those of top-k and then top-p may come, by their probabilities."""
    settings = {"max_new_tokens": 1, "temperature": 0.5, "top_k": 6, "top_p": 0.8}
    ids = np.array([[3, 70, 9, 120]])
    scores = np.asarray(model(input_ids=ids, attention_mask=np.ones_like(ids)).logits)[0, -1].astype(np.float64) / 0.5
    order = np.argsort(-scores)[:6]
    shares = np.exp(scores[order] - scores[order[0]])
    shares /= shares.sum()
    kept = int((shares.cumsum() - shares < 0.8).sum())
    want = shares[:kept] / shares[:kept].sum()
    batch, sampling = texts._batch, sampling_of(read_settings(model.directory, settings), 4)
    numbers = {batch.add(ids[0].tolist(), sampling) for _ in range(400)}
    found: list[int] = []
    while numbers:
        for number, progress in batch.step().items():
            found += progress.tokens
            numbers -= {number} if progress.ended else set()
    counts = np.array([found.count(token) for token in order[:kept]])
    assert counts.sum() == 400 and kept > 1
    chi = ((counts - 400 * want) ** 2 / (400 * want)).sum()
    assert chi < 25, (counts, 400 * want)


@needs_genai
def test_settings_without_an_equal_are_told_ahead(texts: Any) -> None:
    assert texts.takes(9, temperature=0.7, top_p=0.9) and texts.takes(9, repetition_penalty=1.1)
    others: list[dict[str, Any]] = [
        {"temperature": 0.7, "seed": 3}, {"min_p": 0.1}, {"min_new_tokens": 3}, {"no_repeat_ngram_size": 2},
        {"presence_penalty": 0.1}, {"frequency_penalty": -0.1}, {"logit_bias": {5: 1}},
    ]  # fmt: skip
    for other in others:
        assert not texts.takes(9, **other)
    assert not texts.takes(10**6, max_new_tokens=1)
    with pytest.raises(InputError, match="positions"):
        texts.begin("a", max_new_tokens=10**6)


@needs_genai
def test_a_worker_that_is_killed_is_told(model: Any) -> None:
    texts = model.continuous_batching()
    texts.begin("ab", max_new_tokens=50)
    texts.step()
    os.kill(texts._batch._process._process.pid, signal.SIGKILL)
    with pytest.raises(SessionError, match="status -9"):
        texts.step()
    with pytest.raises(SessionError, match="closed"):
        texts.begin("ab", max_new_tokens=5)


@needs_genai
def test_tokens_that_are_not_the_sessions_own_are_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum_openvino.continuous import OvContinuousBatch

    step = OvContinuousBatch.step

    def wrong(self: Any) -> Any:
        return {
            number: Progress(tokens=tuple((token + 1) % 258 for token in progress.tokens), ended=progress.ended)
            for number, progress in step(self).items()
        }

    monkeypatch.setattr(OvContinuousBatch, "step", wrong)
    with pytest.raises(VerificationError, match="token 1 is"):
        model.continuous_batching()


def test_without_the_package_states_are_joined(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_openvino.continuous.present", lambda name: False)
    session: Any = model._decoder.session
    with pytest.raises(UnavailableError, match=r"optimum-openvino\[genai\]"):
        session.continuous(ContinuousLimits())
    texts = model.continuous_batching()
    assert texts.tool == "states of backend 'openvino'"
    begun = [texts.begin(prompt, max_new_tokens=9, do_sample=False) for prompt in ("ab", "a longer one", "c")]
    found = {text.number: "" for text in begun}
    while any(not text.ended for text in begun):
        for text in texts.step():
            found[text.number] += "".join(text.pieces)
    want = [model.generate(prompt, max_new_tokens=9, do_sample=False) for prompt in ("ab", "a longer one", "c")]
    assert list(found.values()) == want
