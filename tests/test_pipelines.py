"""transformers' pipelines over accelerated models: what they give with the eager model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "birds", "over", "photo", "of", "dog")


def _tokenizer(length: int = 64) -> Any:
    """One word, one token; a special one on each side."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    vocabulary["[SEP]"] = 119  # where CLIP looks for the end of a text
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 119)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
    )


def _letters(folder: Any) -> Any:
    file = folder / "vocab.json"
    file.write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4, "c": 5, "d": 6, "e": 7, "f": 8, "g": 9}')
    return Wav2Vec2CTCTokenizer(str(file), unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|")


def _sound(seconds: float) -> np.ndarray[Any, Any]:
    time = np.arange(int(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)


def _picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _same(got: Any, want: Any) -> None:
    """Equal lists, mappings and texts; numbers within a thousandth."""
    assert type(got) is type(want)
    if isinstance(want, list):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            _same(a, b)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            _same(got[key], want[key])
    elif isinstance(want, float | np.floating):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-4)
    else:
        assert got == want


#: The kinds of models by task.
KINDS = {
    "text-classification": "bert",
    "token-classification": "bert tokens",
    "fill-mask": "bert masked",
    "image-classification": "vit",
    "audio-classification": "wav2vec2 classifier",
    "automatic-speech-recognition": "wav2vec2",
    "zero-shot-image-classification": "clip",
}
TEXTS = ["the cat sat on a mat", "two birds"]
CASES: dict[str, tuple[Callable[[Any], dict[str, Any]], Any, dict[str, Any]]] = {
    "text-classification": (lambda _: {"tokenizer": _tokenizer()}, TEXTS, {"top_k": 5}),
    "token-classification": (lambda _: {"tokenizer": _tokenizer()}, TEXTS, {}),
    "fill-mask": (lambda _: {"tokenizer": _tokenizer()}, "the [MASK] sat on two mat", {}),
    "image-classification": (
        lambda _: {"image_processor": ViTImageProcessor(size={"height": 32, "width": 32})},
        [_picture(40, 30), _picture(64, 64)],
        {},
    ),
    "audio-classification": (
        lambda _: {"feature_extractor": Wav2Vec2FeatureExtractor(return_attention_mask=False)},
        [_sound(0.4), _sound(0.7)],
        {"top_k": 4},
    ),
    "automatic-speech-recognition": (
        lambda folder: {"feature_extractor": Wav2Vec2FeatureExtractor(), "tokenizer": _letters(folder)},
        [_sound(0.5), _sound(0.3)],
        {},
    ),
    "zero-shot-image-classification": (
        lambda _: {
            "tokenizer": _tokenizer(32),
            "image_processor": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        },
        _picture(50, 40),
        {"candidate_labels": ["cat", "dog", "two birds"], "hypothesis_template": "a photo of {}"},
    ),
}


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")  # the audio is short
@pytest.mark.parametrize("task", CASES)
def test_pipeline(task: str, tiny: Callable[[str], Any], to_ort: Callable[..., Any], tmp_path: Any) -> None:
    make, given, arguments = CASES[task]
    parts = make(tmp_path)
    model = tiny(KINDS[task])
    want = pipeline(task, model=model, **parts)(given, **arguments)
    fast = to_ort(model)
    assert (fast.backend, fast.task) == ("ort", task)
    _same(pipeline(task, model=fast, **parts)(given, **arguments), want)
