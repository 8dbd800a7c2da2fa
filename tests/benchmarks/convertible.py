"""Small models of many architectures, from their configurations with random weights: nothing is fetched."""

from __future__ import annotations

from typing import Any

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_TEXT: dict[str, Any] = {**_SIZES, "vocab_size": 99, "max_position_embeddings": 64}
_DECODER: dict[str, Any] = {**_TEXT, "num_key_value_heads": 2}
_PICTURE: dict[str, Any] = {**_SIZES, "image_size": 32, "patch_size": 8}
_SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
_MARKS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SOUND: dict[str, Any] = {
    **_SIZES,
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}

#: By name: the class, the class of its configuration, and what the configuration states.
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
    ),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _TEXT),
    "xlm-roberta": ("XLMRobertaForTokenClassification", "XLMRobertaConfig", _TEXT),
    "camembert": ("CamembertForQuestionAnswering", "CamembertConfig", _TEXT),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {**_TEXT, "embedding_size": 16}),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 16}),
    "mpnet": ("MPNetModel", "MPNetConfig", _TEXT),
    "deberta-v2": (
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "mobilebert": (
        "MobileBertModel",
        "MobileBertConfig",
        {**_TEXT, "embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    "modernbert": (
        "ModernBertModel",
        "ModernBertConfig",
        {**_TEXT, **_MARKS, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2},
    ),
    "squeezebert": ("SqueezeBertModel", "SqueezeBertConfig", {**_TEXT, "embedding_size": 32}),
    "convbert": ("ConvBertModel", "ConvBertConfig", {**_TEXT, "embedding_size": 32}),
    "fnet": ("FNetModel", "FNetConfig", _TEXT),
    "clip, text": ("CLIPTextModel", "CLIPTextConfig", _TEXT),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "mistral": ("MistralForCausalLM", "MistralConfig", _DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**_DECODER, "head_dim": 8}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**_DECODER, "pad_token_id": 0}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _DECODER),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", {**_SEQ2SEQ, "max_position_embeddings": 64}),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **_SEQ2SEQ,
            **_MARKS,
            "num_mel_bins": 16,
            "max_source_positions": 50,
            "max_target_positions": 64,
            "decoder_start_token_id": 1,
        },
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", _PICTURE),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _PICTURE),
    "beit": ("BeitForImageClassification", "BeitConfig", _PICTURE),
    "clip, vision": ("CLIPVisionModel", "CLIPVisionConfig", _PICTURE),
    "dinov2": ("Dinov2Model", "Dinov2Config", _PICTURE),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    ),
    "regnet": (
        "RegNetForImageClassification",
        "RegNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "groups_width": 8},
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"image_size": 128, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    ),
    "mobilenet-v2": (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"image_size": 128, "depth_multiplier": 0.35, "initializer_range": 0.3},
    ),
    "mobilevit": (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
            "num_attention_heads": 2,
            "initializer_range": 0.3,
        },
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "image_size": 128,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {**_SOUND, "vocab_size": 32}),
    "hubert": ("HubertModel", "HubertConfig", _SOUND),
}

NAMES = tuple(_MODELS)
#: With the usual weights attention is all but uniform, and a wrong mask would hardly show. T5's is not: its scores are
#: not scaled.
_SHARPEN = 6.0
_SHARPEN_LESS = {"t5": 1.5}


def make(name: str) -> Any:
    """The model of that name, in evaluation mode, the same each time."""
    import torch
    import transformers

    made, configuration, stated = _MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, configuration)(**stated)
        module = getattr(transformers, made)(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(_SHARPEN_LESS.get(name, _SHARPEN))
    return module
