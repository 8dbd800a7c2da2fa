"""Whisper's own members beside its texts: times of single tokens, and the language of a recording."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import InputError, UnavailableError
from optimum_core.measure import Effort, measuring
from optimum_core.models.decoders.encoder_decoder_generate import host_for
from optimum_core.testing.encoder_decoders import encoder_decoder, opened_parts

# transformers' own: it repeats a tensor by numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__", "ignore:Passing `generation_config` together")

FRAMES = torch.randn(3, 8, 100, generator=torch.Generator().manual_seed(5))
#: The second recording is shorter: its padding is left out of the times.
SEEN = torch.ones(3, 100, dtype=torch.long)
SEEN[1, 60:] = 0
#: Else texts of so small a model repeat one token.
_ENGLISH: dict[str, Any] = {"language": "en", "task": "transcribe", "no_repeat_ngram_size": 2}


@pytest.fixture(scope="module")
def whisper() -> Any:
    module = copy.deepcopy(encoder_decoder("whisper"))
    stated = {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": 70, "<|de|>": 71},
        "task_to_id": {"transcribe": 75, "translate": 76},
        "no_timestamps_token_id": 80,
        "prev_sot_token_id": 79,
        "alignment_heads": [[0, 1], [1, 2]],
        "decoder_start_token_id": 2,
        "eos_token_id": 98,
        "pad_token_id": 98,
        "max_length": 30,
    }
    for name, value in stated.items():
        setattr(module.generation_config, name, value)
    return module


@pytest.fixture(scope="module")
def fast(whisper: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        yield accelerate(whisper, target="ort", cache_dir=tmp_path_factory.mktemp("cache"), budget=0)


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_tokens_have_the_times_that_eager_gives_them(whisper: Any, fast: Any, way: str) -> None:
    asked = {"return_token_timestamps": True, "return_dict_in_generate": True, **_ENGLISH, **WAYS[way]}
    frames, seen = (FRAMES[1:2], SEEN[1:2]) if way == "prompt lookup" else (FRAMES, SEEN)
    # A copy, since eager keeps the form of attention that such a call switches it to.
    want, got = (model.generate(frames, attention_mask=seen, **asked) for model in (copy.deepcopy(whisper), fast))
    assert torch.equal(got["sequences"], want["sequences"])
    torch.testing.assert_close(got["token_timestamps"], want["token_timestamps"])
    assert len(want["token_timestamps"].unique()) > 2


def test_words_of_a_file_alone_have_no_times(fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "model")
    with pytest.raises(UnavailableError, match="original's attention"):
        load(tmp_path / "model").generate(FRAMES, attention_mask=SEEN, return_token_timestamps=True, **_ENGLISH)


def test_the_language_is_that_which_eager_detects(whisper: Any, fast: Any) -> None:
    want = copy.deepcopy(whisper).detect_language(FRAMES)
    assert torch.equal(fast.detect_language(FRAMES), want)
    assert set(want.tolist()) <= {70, 71}


@pytest.mark.parametrize("kind", ["speech_to_text", "speecht5", "wav2vec2_mbart"])
def test_an_encoder_that_makes_one_place_of_several_samples_leaves_padding_out(kind: str, tmp_path: Path) -> None:
    module = encoder_decoder(kind)
    session = opened_parts(kind, "ort", "onnx", tmp_path, exporter="onnx", route="torchscript")
    known = (session.parts, module.config, lambda: module.generation_config)
    name = "input_features" if kind == "speech_to_text" else "input_values"
    host = host_for(type(module).__name__, kind, *known, main_input=name)
    shape = (2, 60, 8) if kind == "speech_to_text" else (2, 1200)
    mask = torch.ones(shape[:2], dtype=torch.long)
    mask[1, shape[1] // 2 :] = 0
    given = {name: torch.randn(shape, generator=torch.Generator().manual_seed(5)), "attention_mask": mask}
    asked: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "no_repeat_ngram_size": 2, "eos_token_id": None}
    assert not torch.equal(module.generate(**given, **asked), module.generate(given[name], **asked))  # padding matters
    for beams in (1, 4):
        want, got = (model.generate(**given, num_beams=beams, **asked) for model in (module, host))
        assert torch.equal(got, want)
    read = host.get_encoder()(**given)
    assert torch.equal(
        host.generate(encoder_outputs=read, attention_mask=mask, **asked), host.generate(**given, **asked)
    )
    read.attention_mask = None
    with pytest.raises(InputError, match="without the mask of their places"):
        host.generate(encoder_outputs=read, attention_mask=mask, **asked)
