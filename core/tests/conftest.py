"""Tiny real models with random weights. Nothing heavy is imported before a test asks for one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from plugin_site import Site

#: With the usual initialization attention is all but uniform, and a wrong mask or position would hardly show.
SHARPEN = 6.0


def _text(name: str, head: str, **settings: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        **{
            "vocab_size": 120,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "num_labels": 5,
            **settings,
        }
    )
    return getattr(transformers, f"{name}{head}")(config)


def _distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(
        vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64, num_labels=5
    )
    return DistilBertForTokenClassification(config)


def _gpt2(head: str, **settings: Any) -> Any:
    import transformers

    config = transformers.GPT2Config(
        **{"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **settings}
    )
    return getattr(transformers, f"GPT2{head}")(config)


def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    return ViTForImageClassification(config)


def _resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", image_size=64, num_labels=5
    )
    return ResNetForImageClassification(config)


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


def _bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=120,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
    )
    return BartForConditionalGeneration(config)


def _clip() -> Any:
    from transformers import CLIPConfig, CLIPModel

    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    text = {
        **layers,
        "vocab_size": 120,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 119,
        "pad_token_id": 0,
    }
    vision = {**layers, "image_size": 32, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return Wav2Vec2ForCTC(config)


def _whisper() -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=120,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=50,
        max_target_positions=40,
        num_mel_bins=16,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config)


_MAKERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: _text("Bert", "ForSequenceClassification"),
    "roberta": lambda: _text("Roberta", "ForSequenceClassification", type_vocab_size=1, pad_token_id=1),
    "multiple choice": lambda: _text("Bert", "ForMultipleChoice"),
    "distilbert": _distilbert,
    "gpt2": lambda: _gpt2("LMHeadModel", bos_token_id=118, eos_token_id=119),
    "gpt2 classifier": lambda: _gpt2("ForSequenceClassification", num_labels=3, bos_token_id=118, eos_token_id=119),
    "vit": _vit,
    "resnet": _resnet,
    "t5": _t5,
    "bart": _bart,
    "clip": _clip,
    "wav2vec2": _wav2vec2,
    "whisper": _whisper,
}


def _make(kind: str) -> Any:
    import torch

    from optimum_core.models.loading import quiet

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(20)
        model = _MAKERS[kind]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(SHARPEN)
    return model


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """A new model of a kind, in evaluation mode; the same weights each time."""
    return _make


@pytest.fixture(scope="session")
def described(tiny: Callable[[str], Any]) -> Callable[[str], tuple[Any, Any]]:
    """A model and its signature, made once: not to be changed."""
    from optimum_core.models.signature import describe

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
