"""Pipelines of transformers around models that were accelerated without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import UnavailableError

_SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37,
}  # fmt: skip


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "|": 2, "what": 3, "a": 4}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]")


def _captioner() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    vision = {**_SIZES, "image_size": 16, "patch_size": 8}
    model = GitForCausalLM(GitConfig(vision_config=vision, vocab_size=99, max_position_embeddings=64, **_SIZES))
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return model.eval(), GitProcessor(pictures, _tokenizer())


def test_a_pipeline_that_would_generate_is_refused_where_it_is_made(tmp_path: Path) -> None:
    """Without that it is made, and ends in a bare AttributeError at its first text."""
    from transformers import pipeline

    model, processor = _captioner()
    inputs = {"input_ids": torch.tensor([[3, 4]]), "pixel_values": torch.randn(1, 3, 16, 16)}
    with accelerate(model, target="ort", sample_inputs=inputs, budget=0, cache_dir=tmp_path) as fast:
        assert fast.can_generate() is False
        for task, given in (
            ("image-text-to-text", {"processor": processor}),
            ("text-generation", {"tokenizer": processor.tokenizer}),
            ("any-to-any", {"processor": processor}),
        ):
            refused = rf"one forward pass(.|\n)*pipeline\('{task}'\) would generate(.|\n)*target='torch'"
            with pytest.raises(UnavailableError, match=refused):
                pipeline(task, model=fast, **given)


def test_what_would_answer_with_one_forward_pass_instead_of_a_sound_is_refused(tmp_path: Path) -> None:
    """The pipeline for sounds takes the first output for the sound where a model says that it does not generate."""
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM, pipeline

    config = MusicgenDecoderConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, ffn_dim=37, num_codebooks=2
    )
    model = MusicgenForCausalLM(config).eval()
    inputs = {"input_ids": torch.tensor([[3, 4], [5, 6]])}
    with accelerate(model, target="ort", sample_inputs=inputs, budget=0, cache_dir=tmp_path) as fast:
        assert fast.can_generate() is False
        with pytest.raises(UnavailableError, match=r"pipeline\('text-to-audio'\) would generate"):
            pipeline("text-to-audio", model=fast, tokenizer=_tokenizer())


def test_a_pipeline_whose_original_does_not_generate_either_runs(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, pipeline

    sizes: dict[str, Any] = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
    config = Wav2Vec2Config(
        vocab_size=5, pad_token_id=1, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2, **sizes, **_SIZES,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).eval()
    others = {"tokenizer": _tokenizer(), "feature_extractor": Wav2Vec2FeatureExtractor(sampling_rate=16000)}
    sound = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    inputs = {"input_values": torch.from_numpy(sound)[None], "attention_mask": torch.ones(1, 400, dtype=torch.int32)}
    with accelerate(model, target="ort", sample_inputs=inputs, budget=0, cache_dir=tmp_path) as fast:
        wanted = pipeline("automatic-speech-recognition", model=model, **others)(sound)
        assert pipeline("automatic-speech-recognition", model=fast, **others)(sound) == wanted
