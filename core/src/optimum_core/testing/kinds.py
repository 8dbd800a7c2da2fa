"""Tiny models with random weights by kind: encoders, and whole models of other architectures.

Decoders that keep a cache are in `optimum_core.testing.decoders`, encoder-decoders in parts in `encoder_decoders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optimum_core.errors import OptionError

#: Factor for the weights: as usually initialized, attention is almost uniform, and a wrong mask would hardly show.
SHARPEN = 6.0
_SEED = 20

# One layer: what a second one adds to an export is time.
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
_BERT = {**_LAYERS, "vocab_size": 120, "max_position_embeddings": 64, "num_labels": 5}
_DISTILBERT = {
    "vocab_size": 120,
    "dim": 32,
    "n_layers": 1,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
    "num_labels": 5,
}
_GPT2 = {
    "vocab_size": 120,
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 118,
    "eos_token_id": 119,
}
_LLAMA = {**_LAYERS, "vocab_size": 120, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
_VIT = {**_LAYERS, "image_size": 32, "patch_size": 8}
_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "image_size": 64,
    "num_labels": 5,
}
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
_CLIP_TEXT = {
    **_LAYERS,
    "vocab_size": 120,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 119,
    "pad_token_id": 0,
}
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": _VIT, "projection_dim": 16}
_T5 = {"vocab_size": 120, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
_TWO_STACKS = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
_WHISPER = {
    **_TWO_STACKS,
    "max_source_positions": 50,
    "max_target_positions": 40,
    "num_mel_bins": 16,
    "decoder_start_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

#: By kind: the class of transformers, its configuration's class, and values of the configuration.
KINDS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _BERT),
    "bert features": ("BertModel", "BertConfig", _BERT),
    "bert tokens": ("BertForTokenClassification", "BertConfig", _BERT),
    "bert masked": ("BertForMaskedLM", "BertConfig", _BERT),
    "multiple choice": ("BertForMultipleChoice", "BertConfig", _BERT),
    "roberta": (
        "RobertaForSequenceClassification",
        "RobertaConfig",
        {**_BERT, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "distilbert": ("DistilBertForTokenClassification", "DistilBertConfig", _DISTILBERT),
    "distilbert classifier": ("DistilBertForSequenceClassification", "DistilBertConfig", _DISTILBERT),
    "distilbert features": ("DistilBertModel", "DistilBertConfig", _DISTILBERT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gpt2 classifier": ("GPT2ForSequenceClassification", "GPT2Config", {**_GPT2, "num_labels": 3}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
    "vit": ("ViTForImageClassification", "ViTConfig", {**_VIT, "num_labels": 5}),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", _RESNET),
    "clip": ("CLIPModel", "CLIPConfig", _CLIP),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _AUDIO),
    "wav2vec2 classifier": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _AUDIO),
    "t5": ("T5ForConditionalGeneration", "T5Config", {**_T5, "decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", "BartConfig", {**_TWO_STACKS, "max_position_embeddings": 64}),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),
}


def tiny_module(kind: str, **changes: Any) -> Any:
    """Return a new model of a kind in eval mode; the same weights at each call.

    Args:
        kind: one of `KINDS`.
        changes: other values of the configuration.

    Raises:
        OptionError: it is no such kind.
    """
    import transformers

    if kind not in KINDS:
        raise OptionError(f"tiny model {kind!r}", "it is unknown", f"use one of: {', '.join(KINDS)}")
    model_class, config_class, values = KINDS[kind]
    config = getattr(transformers, config_class)(**{**values, **changes})
    return sharpened(lambda: getattr(transformers, model_class)(config))


def sharpened(make: Callable[[], Any], *, seed: int = _SEED, factor: float = SHARPEN, kernels: bool = False) -> Any:
    """Return a model, made with seeded weights, in eval mode, its matrices multiplied by a factor, so that masks and
    positions matter to its outputs.

    Args:
        kernels: whether kernels of convolutions are multiplied too.
    """
    import torch

    from optimum_core.models.pretrained import quiet

    with quiet(), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = make().eval()
        for parameter in module.parameters():
            if parameter.ndim == 2 or (kernels and parameter.ndim > 2):
                parameter.mul_(factor)
    return module


def sharpened_generator(maker: Any, model_type: str, values: Mapping[str, Any], *, seed: int) -> Any:
    """Return a model that generates.

    Args:
        maker: an auto class of transformers.
        model_type: as in transformers' configurations; `values`: fields of that configuration.
    """
    from transformers import AutoConfig

    return sharpened(
        lambda: maker.from_config(AutoConfig.for_model(model_type, **values)), seed=seed, factor=4.0, kernels=True
    )
