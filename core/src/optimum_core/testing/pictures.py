"""Tiny models of pictures or sound with text, with weights so large that masks, positions and pictures matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.api import accelerate
from optimum_core.measure import Effort, measuring
from optimum_core.models.generators import describe_decoder
from optimum_core.models.signatures.signature import ModelSignature, describe

VOCABULARY, PICTURE, PLACES = 99, 7, 4
_SHARPEN = 2.0

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 37, "max_position_embeddings": 128, "pad_token_id": 1,
    "bos_token_id": 2, "eos_token_id": None,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_GEMMA = {**_TEXT, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}
_QWEN_TEXT = {
    **_TEXT,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
}
_QWEN_VISION = {
    "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "mlp_ratio": 2, "in_channels": 3,
}  # fmt: skip


def _llava(t: Any) -> Any:
    return t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**_VISION, projection_dim=32),
            text_config=t.LlamaConfig(**_TEXT),
            image_token_index=PICTURE,
        )
    )


def _smolvlm(t: Any) -> Any:
    vision = t.SmolVLMVisionConfig(**{**_VISION, "image_size": 32}).to_dict()
    text = t.LlamaConfig(**_TEXT)
    config = t.SmolVLMConfig(vision_config=vision, text_config=text, image_token_id=PICTURE, scale_factor=2)
    return t.SmolVLMForConditionalGeneration(config)


def _qwen2_vl(t: Any) -> Any:
    ids = {"image_token_id": PICTURE, "video_token_id": 8, "vision_start_token_id": 5, "vision_end_token_id": 6}
    return t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=_QWEN_TEXT, vision_config=_QWEN_VISION, **ids))


def _qwen3_vl(t: Any) -> Any:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 37, "num_heads": 4, "in_channels": 3, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    text = {**_TEXT, "head_dim": 8, "rope_parameters": rope}
    ids = {"image_token_id": PICTURE, "video_token_id": 8, "vision_start_token_id": 5, "vision_end_token_id": 6}
    return t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=text, vision_config=vision, **ids))


def _gemma3(t: Any) -> Any:
    layers = ["sliding_attention", "full_attention"]
    return t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(
            vision_config=t.SiglipVisionConfig(**{**_VISION, "image_size": 32}).to_dict(),
            text_config=t.Gemma3TextConfig(**_GEMMA, layer_types=layers).to_dict(),
            image_token_index=PICTURE, mm_tokens_per_image=PLACES, boi_token_index=5, eoi_token_index=6,
        )
    )  # fmt: skip


def _paligemma(t: Any) -> Any:
    return t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=t.SiglipVisionConfig(**_VISION).to_dict(),
            text_config=t.GemmaConfig(**_TEXT, head_dim=8).to_dict(),
            image_token_index=PICTURE, projection_dim=32,
        )
    )  # fmt: skip


_AUDIO: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": 8,
    "max_source_positions": 8,
}  # fmt: skip


_ENCODER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_mel_bins": 8,
}  # fmt: skip


def _voxtral(t: Any) -> Any:
    audio = t.VoxtralEncoderConfig(**_AUDIO)
    config = t.VoxtralConfig(audio_config=audio, text_config=t.LlamaConfig(**_TEXT), audio_token_id=PICTURE)
    return t.VoxtralForConditionalGeneration(config)


def _qwen2_audio(t: Any) -> Any:
    audio, text = t.Qwen2AudioEncoderConfig(**_AUDIO), t.Qwen2Config(**_TEXT)
    config = t.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=PICTURE)
    return t.Qwen2AudioForConditionalGeneration(config)


def _glmasr(t: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    audio = t.GlmAsrEncoderConfig(**_ENCODER, max_position_embeddings=64, rope_parameters=rope)
    text = t.LlamaConfig(**_TEXT)
    return t.GlmAsrForConditionalGeneration(
        t.GlmAsrConfig(audio_config=audio, text_config=text, audio_token_id=PICTURE)
    )


def _audioflamingo3(t: Any) -> Any:
    audio = t.AudioFlamingo3EncoderConfig(**_ENCODER, max_source_positions=8)
    text = t.Qwen2Config(**_TEXT)
    return t.AudioFlamingo3ForConditionalGeneration(
        t.AudioFlamingo3Config(audio_config=audio, text_config=text, audio_token_id=PICTURE)
    )


#: By name: the function that makes the model, and the inputs beside a text with `PLACES` places for one picture or
#: sound.
KINDS: Mapping[str, tuple[Callable[[Any], Any], Mapping[str, tuple[int, ...]]]] = {
    "llava": (_llava, {"pixel_values": (1, 3, 16, 16)}),
    "smolvlm": (_smolvlm, {"pixel_values": (1, 1, 3, 32, 32)}),
    "qwen2_vl": (_qwen2_vl, {"pixel_values": (16, 96), "image_grid_thw": (1, 3), "mm_token_type_ids": ()}),
    "qwen3_vl": (_qwen3_vl, {"pixel_values": (16, 96), "image_grid_thw": (1, 3), "mm_token_type_ids": ()}),
    "gemma3": (_gemma3, {"pixel_values": (1, 3, 32, 32), "token_type_ids": ()}),
    "paligemma": (_paligemma, {"pixel_values": (1, 3, 16, 16), "token_type_ids": ()}),
    "voxtral": (_voxtral, {"input_features": (1, 8, 16)}),
    "glmasr": (_glmasr, {"input_features": (1, 8, 32), "input_features_mask": (1, 32)}),
    "audioflamingo3": (_audioflamingo3, {"input_features": (1, 8, 16), "input_features_mask": (1, 16)}),
    "qwen2_audio": (_qwen2_audio, {"input_features": (1, 8, 16), "feature_attention_mask": (1, 16)}),
}


@cache
def picture_model(kind: str, *, seed: int = 20) -> Any:
    """Return the model of one of `KINDS`, in evaluation mode. Created once per process."""
    import torch
    import transformers

    from optimum_core.models.pretrained import quiet

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        module = KINDS[kind][0](transformers).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim >= 2:  # as they are made, some projectors give zeros
                    parameter.normal_(std=_SHARPEN * (len(parameter) / parameter.numel()) ** 0.5)
    module.generation_config.pad_token_id, module.generation_config.eos_token_id = 1, None
    return module


def picture_inputs(kind: str, *, seed: int = 0) -> dict[str, Any]:
    """Return the inputs of one call with a picture in its text, as torch tensors."""
    import torch

    rng = np.random.default_rng(seed)
    text = rng.integers(10, VOCABULARY, (1, 5))
    ids = np.concatenate([[[2, 5]], np.full((1, PLACES), PICTURE), [[6]], text], axis=1)
    # Zeros: to PaliGemma, all is a prefix, read in both directions.
    types = np.zeros_like(ids) if kind == "paligemma" else (ids == PICTURE).astype(np.int64)
    made: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for name, shape in KINDS[kind][1].items():
        if name.endswith("type_ids"):
            made[name] = types
        elif name.endswith("mask"):
            made[name] = np.ones(shape, np.int64)
        elif name == "image_grid_thw":
            made[name] = np.array([[1, 4, 4]])
        else:
            made[name] = rng.standard_normal(shape).astype(np.float32)
    return {name: torch.as_tensor(array) for name, array in made.items()}


def picture_rows(kind: str) -> dict[str, Any]:
    """Return the inputs of two rows with other pictures; the first is padded on the left."""
    import torch

    one, other = picture_inputs(kind), picture_inputs(kind, seed=1)
    text = one["input_ids"].shape
    made = {}
    for name, tensor in one.items():
        if tensor.shape != text:
            made[name] = torch.cat([tensor, other[name]])
            continue
        before = torch.full((1, 3), {"input_ids": 1}.get(name, 0))
        after = torch.full((1, 3), {"input_ids": 20, "attention_mask": 1}.get(name, 0))
        made[name] = torch.cat([torch.cat([before, tensor], 1), torch.cat([other[name], after], 1)])
    return made


@cache
def described(kind: str) -> ModelSignature:
    """Return the model's signature, with its interface as parts.

    Raises:
        NotADecoderError: it has none.
    """
    module = picture_model(kind)
    signature = describe(module, name=kind, samples=picture_inputs(kind))
    return replace(signature, decoder=describe_decoder(module, signature))


def accelerated_pictures(kind: str, target: str, cache_dir: Path, **asked: Any) -> Any:
    """Return the model of a kind on a target, timed for a moment only."""
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        return accelerate(
            picture_model(kind), target=target, cache_dir=cache_dir, shapes=[(1, 16, 4)],
            sample_inputs=picture_inputs(kind), **asked,
        )  # fmt: skip
