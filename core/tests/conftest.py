"""Fixtures of core's tests. Nothing heavy is imported before a test asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from plugin_site import Site

# A machine that is held up for a second makes no example wrong, nor the drawing of it too slow.
settings.register_profile("without deadlines", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without deadlines")


@pytest.fixture(scope="session")
def described(tiny: Callable[[str], Any]) -> Callable[[str], tuple[Any, Any]]:
    """A model and its signature, made once: not to be changed."""
    from optimum_core.models.signatures.signature import describe

    @cache
    def make(kind: str) -> tuple[Any, Any]:
        module = tiny(kind)
        return module, describe(module, name=kind)

    return make


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A folder that is on the path, with no distribution in it yet."""
    from optimum_core.plugins import DISABLED_ENV, STRICT_ENV

    monkeypatch.delenv(DISABLED_ENV, raising=False)
    monkeypatch.delenv(STRICT_ENV, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of whole words with a special token at either end, which by itself cuts and pads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{f"w{n}": n for n in range(4, 110)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=30)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="session")
def fast_of(
    tiny: Callable[[str], Any], tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Tiny models accelerated by ONNX Runtime, by kind, made once; models of text with the tokenizer of words."""
    from transformers import AutoTokenizer

    from optimum_core import accelerate

    directory = tmp_path_factory.mktemp("cache")

    @cache
    def make(kind: str) -> Any:
        settings: dict[str, Any] = {"shapes": ({"batch": 1},), "budget": 0, "cache_dir": directory}
        if kind in ("bert", "distilbert"):
            settings["processor"] = AutoTokenizer.from_pretrained(tokenizer_file)
        return accelerate(tiny(kind), target="ort", level="all", **settings)

    return make


@pytest.fixture(scope="session")
def fast(fast_of: Callable[[str], Any]) -> Any:
    """A tiny BERT with the tokenizer of words."""
    return fast_of("bert")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread in a module's tests."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
