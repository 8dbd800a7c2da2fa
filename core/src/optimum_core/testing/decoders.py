"""Tiny causal language models of many kinds, with weights so large that masks and positions matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from optimum_core.hardware import detect
from optimum_core.models.decoders.encoder_decoder_description import as_generating
from optimum_core.models.generators import describe_decoder
from optimum_core.models.signatures.decoder_signature import DecoderSignature
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.testing.kinds import sharpened_generator
from optimum_core.types import Artifact, ExportRequest, SessionRequest

VOCABULARY = 99

_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip


def _with(**changes: Any) -> dict[str, Any]:
    return {**_COMMON, **changes}


def _without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in _with(**changes).items() if name not in names}


#: By name: the model type, and the values of its configuration.
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", _with()),
    "gpt2": ("gpt2", _GPT),
    "gpt_neox": ("gpt_neox", _without("num_key_value_heads")),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 4}),
    "gpt_neo": ("gpt_neo", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64,
        "attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "codegen": ("codegen", {**_GPT, "rotary_dim": 4}),
    "opt": ("opt", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "word_embed_proj_dim": 32, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    }),
    "qwen2": ("qwen2", _with()),
    "qwen3": ("qwen3", _with(head_dim=8)),
    "mistral": ("mistral", _with(sliding_window=8)),
    "gemma": ("gemma", _with(head_dim=8)),
    "gemma2": ("gemma2", _with(head_dim=8, sliding_window=8, query_pre_attn_scalar=8)),
    "gemma3": ("gemma3_text", _with(
        head_dim=8, sliding_window=8, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]
    )),
    "llama4_text": ("llama4_text", _with(
        head_dim=8, attention_chunk_size=8, num_local_experts=4, intermediate_size_mlp=64, no_rope_layers=[1, 0],
        layer_types=["chunked_attention", "full_attention"],
    )),
    "phi": ("phi", _with()),
    "phi3": ("phi3", _with()),
    "falcon": ("falcon", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "falcon_alibi": ("falcon", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "new_decoder_architecture": False,
    }),
    "bloom": ("bloom", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    }),
    "mpt": ("mpt", {
        "vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }),
    "stablelm": ("stablelm", _with()),
    "cohere": ("cohere", _with()),
    "olmo": ("olmo", _with()),
    "olmo2": ("olmo2", _with()),
    "granite": ("granite", _with()),
    "starcoder2": ("starcoder2", _with(sliding_window=None)),
    "mixtral": ("mixtral", _with(num_local_experts=4, num_experts_per_tok=2)),
    "qwen2_moe": ("qwen2_moe", _with(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16
    )),
    "olmoe": ("olmoe", _with(num_experts=4, num_experts_per_tok=2)),
    "smollm3": ("smollm3", _with(no_rope_layers=[1, 0])),
    "glm4": ("glm4", _with(head_dim=8)),
    "nemotron": ("nemotron", _with(head_dim=8)),
    "gemma3n": ("gemma3n_text", _with(
        head_dim=8, sliding_window=8, num_hidden_layers=4, num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=8, laurel_rank=8, altup_num_inputs=2,
        activation_sparsity_pattern=[0.5, 0.0, 0.5, 0.0], layer_types=["sliding_attention", "full_attention"] * 2,
    )),
    "exaone4": ("exaone4", _with(sliding_window=8)),
    "biogpt": ("biogpt", _without("num_key_value_heads")),
    "xglm": ("xglm", {
        "vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4,
        "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }),
    "persimmon": ("persimmon", _without("num_key_value_heads")),
    "helium": ("helium", _with(head_dim=8)),
    "ernie4_5": ("ernie4_5", _with()),
    "arcee": ("arcee", _with()),
    "seed_oss": ("seed_oss", _with(head_dim=8)),
    "gpt_oss": ("gpt_oss", _with(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8)),
    "deepseek_v2": ("deepseek_v2", _with(
        kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1, n_group=1, topk_group=1,
        num_key_value_heads=4, head_dim=8,
    )),
    "minimax": ("minimax", _with(
        num_local_experts=4, num_experts_per_tok=2, block_size=4, layer_types=["full_attention", "linear_attention"]
    )),
    "lfm2": ("lfm2", _with(layer_types=["conv", "full_attention"])),
    "falcon_h1": ("falcon_h1", _with(
        head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4,
        mamba_chunk_size=8,
    )),
    "qwen3_next": ("qwen3_next", _with(
        head_dim=8, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8, num_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
    )),
    "zamba": ("zamba", _with(
        num_hidden_layers=3, layers_block_type=["linear_attention", "hybrid", "hybrid"], num_key_value_heads=4,
        n_mamba_heads=2, mamba_d_state=4,
    )),
    "mamba": ("mamba", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}  # fmt: skip


@cache
def decoder(kind: str, *, seed: int = 20) -> Any:
    """Return the model of one of `KINDS`, in evaluation mode. Created once per process."""
    from transformers import AutoModelForCausalLM

    model_type, values = KINDS[kind]
    return sharpened_generator(AutoModelForCausalLM, model_type, values, seed=seed)


@cache
def described(kind: str) -> ModelSignature:
    """Return the model's signature, with its interface as a decoder.

    Raises:
        NotADecoderError: it has none.
    """
    return described_generator(decoder(kind), kind)


def described_generator(module: Any, name: str) -> ModelSignature:
    """Return the signature of a model that generates, with its interface as a decoder, alone or behind an encoder.

    Raises:
        NotADecoderError: it has none.
    """
    signature = describe(module, name=name)
    found = describe_decoder(module, signature)
    return replace(as_generating(module, signature, found), decoder=found)


def decoder_of(signature: ModelSignature) -> DecoderSignature:
    """Return the interface as a decoder of a signature that has one."""
    assert signature.decoder is not None
    return signature.decoder


def decoder_request(kind: str, backend: str, format: str, output: Path, route: str | None = None) -> ExportRequest:
    """Return the request to export the model as a decoder."""
    known = decoder_of(described(kind))
    return ExportRequest(
        backend=backend,
        source=MemorySource(decoder(kind)),
        task="text-generation",
        format=format,
        precision="fp32",
        samples=known.samples(),
        inputs=known.inputs,
        outputs=known.outputs,
        state=known.state,
        output=output,
        route=route,
    )


def eager_decoder(kind: str) -> Any:
    """Return a session of the eager model as a decoder."""
    known = decoder_of(described(kind))
    artifact = Artifact(
        format="live", path=Path(), files=(), inputs=known.inputs, outputs=known.outputs, state=known.state
    )
    source = MemorySource(decoder(kind))
    return manager().load_session(
        SessionRequest(backend="torch", artifact=artifact, device="cpu", hardware=detect(), source=source)
    )
