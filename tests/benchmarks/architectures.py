"""Tiny models with random weights of many architectures, made of their configurations."""

from __future__ import annotations

from typing import Any

#: What is made small wherever a configuration has it and its own value is larger.
_SMALL: dict[str, int] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 64, "ffn_dim": 64, "d_ff": 64, "hidden_dim": 64, "n_inner": 64,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8,
    "vocab_size": 128, "max_position_embeddings": 128, "n_positions": 128, "pooler_hidden_size": 32,
    "image_size": 32, "patch_size": 8,
    "projection_dim": 16, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "cls_token_id", "sep_token_id")
_SOUND: dict[str, Any] = {
    "conv_dim": [32, 32],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 16, "num_stages": 2}
_TEXT, _CAUSAL, _BOTH, _PICTURE, _PLAIN = (
    "SequenceClassification", "CausalLM", "Seq2SeqLM", "ImageClassification", ""
)  # fmt: skip

#: Model type as transformers names it, the head, and what its configuration needs beyond being made small.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(
        ("albert", "bert", "convbert", "deberta", "deberta-v2", "distilbert", "electra",
         "ernie", "fnet", "modernbert", "mpnet", "nystromformer", "rembert", "roberta", "roformer",
         "xlm-roberta"),
        (_TEXT, {}),
    ),
    "squeezebert": (_TEXT, {"q_groups": 1, "k_groups": 1, "v_groups": 1, "post_attention_groups": 1,
                            "intermediate_groups": 1, "output_groups": 1}),
    **dict.fromkeys(
        ("bloom", "gemma", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "opt", "phi", "qwen2",
         "qwen3"),
        (_CAUSAL, {}),
    ),
    "gpt_neo": (_CAUSAL, {"attention_types": [[["global", "local"], 1]]}),
    "gptj": (_CAUSAL, {"rotary_dim": 4}),
    "bart": (_BOTH, {}),
    "t5": (_BOTH, {}),
    "beit": (_PICTURE, {"out_indices": [1]}),
    "convnext": (_PICTURE, _STAGES),
    "deit": (_PICTURE, {}),
    "dinov2": (_PICTURE, {}),
    "mobilenet_v2": (_PICTURE, {"depth_multiplier": 0.25, "image_size": 64}),
    "poolformer": (_PICTURE, {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "image_size": 64}),
    "resnet": (_PICTURE, {**_STAGES, "layer_type": "basic", "image_size": 64}),
    "segformer": (_PICTURE, {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "image_size": 64}),
    "vit": (_PICTURE, {}),
    "clip": (_PLAIN, {}),
    "wav2vec2": ("AudioClassification", _SOUND),
}  # fmt: skip


def tiny(model_type: str) -> Any:
    """The model of that type, in evaluation mode, with weights large enough for masks and positions to matter."""
    import torch
    import transformers as tf

    head, overrides = ARCHITECTURES[model_type]
    config = tf.CONFIG_MAPPING[model_type]()
    _shrink(config)
    config.architectures = []
    for name, value in overrides.items():
        setattr(config, name, value)
    auto = getattr(tf, f"AutoModel{'For' + head if head else ''}")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = auto.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(4)
    return model


def _shrink(config: Any) -> None:
    from transformers import PretrainedConfig

    for name, small in _SMALL.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > small:
            setattr(config, name, small)
    for name in _TOKENS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value >= _SMALL["vocab_size"]:
            setattr(config, name, 1)
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:2]
    for part in list(vars(config).values()):
        if isinstance(part, PretrainedConfig):
            _shrink(part)
