"""The pages on text, pictures and sound: their Python runs, on tiny models with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessor, Wav2Vec2FeatureExtractor

from optimum_core.cache import CACHE_DIR_VARIABLE

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS = ("[PAD]", "[UNK]", "So", "far", ",", "so", "good", ".", "It", "is", "true")


def _tokenizer() -> Any:
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64, model_input_names=names
    )


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")  # a second of sound is long
@pytest.mark.parametrize(
    ("page", "kind", "processor", "shape"),
    [
        ("text", "bert", _tokenizer, (2, 5)),
        ("vision", "vit", lambda: ViTImageProcessor(size={"height": 32, "width": 32}), (3, 5)),
        ("audio", "wav2vec2 classifier", lambda: Wav2Vec2FeatureExtractor(return_attention_mask=False), (2, 4)),
    ],
)
def test_the_example_of_a_page_runs(
    page: str,
    kind: str,
    processor: Callable[[], Any],
    shape: tuple[int, int],
    tiny: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny(kind).save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    monkeypatch.setenv(CACHE_DIR_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (block,) = BLOCK.findall((DOCS / f"{page}.md").read_text("utf-8"))
    (name,) = re.findall(r'^name = (".*")$', block, re.MULTILINE)
    found: dict[str, Any] = {"__name__": "documented"}
    script = block.replace(name, repr(str(tmp_path / "model"))).replace(
        "accelerate(name)", "accelerate(name, budget=0)"
    )
    exec(compile(script, "<documentation>", "exec"), found)  # our own pages
    assert found["scores" if "scores" in found else "logits"].shape == shape
