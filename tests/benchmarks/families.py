"""Tiny models of every family that transformers generates with: its own configuration, made small by rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

Kind = Literal["decoder", "encoder-decoder", "speech"]

_SHARPEN = 4.0
_VOCABULARY, _POSITIONS, _WIDTH, _INNER, _LAYERS, _HEADS, _GROUPS, _HEAD, _EXPERTS = 99, 256, 32, 64, 2, 4, 2, 8, 4

#: What a number of a configuration is made, if it is larger.
_SMALL: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size", "unpadded_vocab_size",
                     "vocab_size_per_layer_input", "pronunciation_vocab_size", "shape_vocab_size"), _VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions",
                     "max_encoder_position_embeddings", "max_decoder_position_embeddings", "context_length",
                     "model_max_length"), _POSITIONS),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "embedding_size", "emb_dim",
                     "embedding_dim", "lru_width", "pronunciation_embed_dim", "shape_embed_dim",
                     "attention_hidden_size", "input_embedding_size", "output_embedding_size"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "dff", "dim_ff",
                     "n_inner", "ffn_hidden_size", "d_inner", "intermediate_size_mlp", "feed_forward_size",
                     "dense_intermediate_size", "prefix_dense_intermediate_size"), _INNER),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_experts_intermediate_size",
                     "shared_intermediate_size", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size",
                     "kv_lora_rank", "q_lora_rank", "o_lora_rank", "block_multiple_of", "laurel_rank", "hc_lowrank",
                     "ple_embed_dim", "router_hidden_size", "max_source_positions", "conv_channels"), 16),
    **dict.fromkeys(("num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_blocks",
                     "num_encoder_layers", "num_decoder_layers", "encoder_num_hidden_layers", "max_window_layers",
                     "decoder_num_hidden_layers", "speech_encoder_layers", "moe_num_layers"), _LAYERS),
    "num_hidden_layers": _LAYERS,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads",
                     "decoder_attention_heads", "encoder_attention_heads", "num_encoder_attention_heads",
                     "num_decoder_attention_heads",
                     "swa_num_attention_heads", "index_n_heads", "encoder_num_attention_heads",
                     "decoder_num_attention_heads", "linear_num_heads", "linear_num_value_heads",
                     "speech_encoder_attention_heads", "cross_num_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads", "linear_num_key_heads",
                     "num_query_groups", "cross_num_key_value_heads"), _GROUPS),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv", "d_head", "dim_head",
                     "kv_channels", "index_head_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim",
                     "swa_head_dim", "attention_head_size", "cross_head_dim", "query_pre_attn_scalar",
                     "global_head_dim", "hidden_size_per_layer_input", "mamba_headdim", "mamba_head_dim",
                     "mamba_d_head"), _HEAD),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window", "sliding_window_size", "local_attention",
                     "attention_window_size", "attention_chunk_size", "index_topk", "keep_window_size"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "state_size",
                     "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank", "zero_expert_num",
                     "local_radius", "global_block_size", "rotary_dim", "prompt_types", "segment_types"), _EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_selected_experts", "n_group", "topk_group",
                     "first_k_dense_replace", "num_kv_shared_layers", "prompt_length"), 2),
    "qk_head_dim": 2 * _HEAD, "num_mel_bins": 8, "input_feat_per_channel": 8, "block_size": 4, "num_global_tokens": 2,
    "chunk_size": 8, "mamba_chunk_size": 8, "mamba_n_heads": 8, "mamba_num_heads": 8, "attention_head_dim": 16,
}  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "sep_token_id": 2}

#: What the rules do not see.
_FURTHER: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": _HEADS} for name in (
        "axk1", "axk2", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite",
        "glm_moe_dsa", "kimi_linear", "longcat_flash", "minicpm3", "youtu",
    )},
    "bamba": {"attn_layer_indices": [1]},
    "dots1": {"n_shared_experts": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    **{name: {"head_dim": _HEAD} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe")},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    **{name: {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2} for name in ("lfm2", "lfm2_moe")},
    "mamba2": {"num_heads": 8},
    "ministral": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "head_dim": _HEAD},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip


def families() -> dict[str, tuple[Kind, Callable[..., Any]]]:
    """Return the makers of a model, which take a `seed`, by the family's name: the kinds of `optimum_core.testing`, and
    every other model type that transformers has a causal language model, an encoder-decoder or a model of speech for.
    """
    from transformers.models.auto import modeling_auto as auto

    from optimum_core.testing import decoders, encoder_decoders

    found: dict[str, tuple[Kind, Callable[..., Any]]] = {}
    known: dict[Kind, set[str]] = {"decoder": set(), "encoder-decoder": set(), "speech": set()}
    for name, (model_type, _) in decoders.KINDS.items():
        found[name] = ("decoder", partial(decoders.decoder, name))
        known["decoder"].add(model_type)
    for name, (model_type, _) in encoder_decoders.KINDS.items():
        kind: Kind = "speech" if name in encoder_decoders.SPEECH else "encoder-decoder"
        found[name] = (kind, partial(encoder_decoders.encoder_decoder, name))
        known[kind].add(model_type)
    mappings: dict[Kind, Mapping[str, Any]] = {
        "decoder": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "encoder-decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "speech": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    }
    for kind, mapping in mappings.items():
        for model_type in mapping:
            if model_type not in known[kind]:
                name = f"{model_type} ({kind})" if model_type in found else model_type
                found[name] = (kind, partial(tiny, model_type, kind))
    return found


def tiny(model_type: str, kind: Kind, *, seed: int = 20) -> Any:
    """Return the model, in evaluation mode, with weights so large that masks and positions matter."""
    import torch
    import transformers

    makers = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
        "speech": transformers.AutoModelForSpeechSeq2Seq,
    }
    config = small(transformers.CONFIG_MAPPING[model_type], _FURTHER.get(model_type, {}))
    if kind == "decoder" and hasattr(config, "is_decoder"):
        config.is_decoder, config.is_encoder_decoder = True, False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = makers[kind].from_config(config).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim >= 2 and parameter.is_floating_point():
                    _sharpen(parameter)
    return module


def _sharpen(matrix: Any) -> None:
    """Make a matrix large. Rows of zeros are drawn, a padding token's too: a router finds all experts equal there, and
    which it takes then is not defined."""
    empty = ~matrix.flatten(1).any(dim=1)
    matrix[empty] = matrix[empty].normal_(std=0.02)
    matrix.mul_(_SHARPEN)


def small(made_by: Any, further: Mapping[str, Any]) -> Any:
    """Return the configuration of that class with its numbers made small, and what is stated beside."""
    taken = inspect.signature(made_by).parameters
    values = _small_values(made_by().to_dict())
    return made_by(**{**{name: value for name, value in values.items() if name in taken}, **further})


def _small_values(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be changed of a configuration: numbers, ids, parts, and lists of one item a layer."""
    changed: dict[str, Any] = {}
    for name, value in stated.items():
        if isinstance(value, dict) and "model_type" in value:
            changed[name] = {"model_type": value["model_type"], **_small_values(value)}
        elif name in _TOKENS:
            changed[name] = _TOKENS[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            changed[name] = min(value, _VOCABULARY - 1)
        elif isinstance(value, int) and not isinstance(value, bool) and value > _SMALL.get(name, value):
            changed[name] = _SMALL[name]
    return changed | _few_layers(stated)


def _few_layers(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists of one item a layer, short: the first layer of each kind, at least two, at most four."""
    count = stated.get("num_hidden_layers") or stated.get("num_layers")
    lists = {name: value for name, value in stated.items() if isinstance(value, list) and len(value) == count}
    if not lists or not isinstance(count, int):
        return {}
    kinds = list(zip(*lists.values(), strict=True))
    first = sorted({repr(kind): index for index, kind in reversed(list(enumerate(kinds)))}.values())[:4]
    chosen = (first + [index for index in range(count) if index not in first])[: max(len(first), _LAYERS)]
    numbers = {name: len(chosen) for name in ("num_hidden_layers", "num_layers") if name in stated}
    return {**numbers, **{name: [value[index] for index in sorted(chosen)] for name, value in lists.items()}}
