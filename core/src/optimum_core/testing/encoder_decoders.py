"""Tiny encoder-decoders of many kinds, with weights so large that masks and positions matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from optimum_core.generation.model_session import EncoderDecoderSession, open_session
from optimum_core.hardware import detect
from optimum_core.models.decoders.parts import Graph, graphs_of
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.testing.decoders import described_generator
from optimum_core.testing.kinds import sharpened_generator
from optimum_core.types import Artifact, ExportRequest, SessionRequest

VOCABULARY = 99

_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_LAYERS = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.12,
}  # fmt: skip
_BART = {"vocab_size": VOCABULARY, **_LAYERS, "max_position_embeddings": 128, **_SPECIAL}
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_MOONSHINE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 128, **_SPECIAL,
    **{f"{part}_{name}": number for part in ("encoder", "decoder") for name, number in (
        ("num_hidden_layers", 2), ("num_attention_heads", 4), ("num_key_value_heads", 4),
    )},
}  # fmt: skip

_CONVOLUTIONS = {
    "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip

#: By name: the model type, and the values of its configuration.
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "t5": ("t5", _T5),
    "t5_gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", _T5),
    "umt5": ("umt5", _T5),
    "switch": ("switch_transformers", {
        **_T5, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
        "num_experts": 4,
    }),
    "t5gemma": ("t5gemma", {"vocab_size": VOCABULARY, **_SPECIAL, **{
        part: {
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
            "query_pre_attn_scalar": 8, "max_position_embeddings": 128, **_SPECIAL,
        } for part in ("encoder", "decoder")
    }}),
    "longt5": ("longt5", {**_T5, "local_radius": 4, "global_block_size": 4}),
    "bart": ("bart", _BART),
    "mbart": ("mbart", _BART),
    "marian": ("marian", {**_BART, "decoder_start_token_id": 0}),
    "pegasus": ("pegasus", {**_BART, "decoder_start_token_id": 0}),
    "pegasus_x": ("pegasus_x", {**_BART, "block_size": 4, "num_global_tokens": 2}),
    "bigbird_pegasus": ("bigbird_pegasus", {**_BART, "attention_type": "original_full"}),
    "m2m_100": ("m2m_100", _BART),
    "blenderbot": ("blenderbot", _BART),
    "blenderbot_small": ("blenderbot-small", _BART),
    "plbart": ("plbart", _BART),
    "mvp": ("mvp", _BART),
    "led": ("led", {
        **_BART, "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 128, "attention_window": 4,
    }),
    "whisper": ("whisper", {
        "vocab_size": VOCABULARY, **_LAYERS, **_SPECIAL, "max_source_positions": 50, "max_target_positions": 64,
        "num_mel_bins": 8,
    }),
    "speech_to_text": ("speech_to_text", {
        "vocab_size": VOCABULARY, **_LAYERS, **_SPECIAL, "max_source_positions": 200, "max_target_positions": 64,
        "input_feat_per_channel": 8, "conv_channels": 16, "num_conv_layers": 2,
    }),
    "speecht5": ("speecht5", {
        "vocab_size": VOCABULARY, "hidden_size": 32, **_LAYERS, **_SPECIAL, **_CONVOLUTIONS, "max_text_positions": 128,
    }),
    "wav2vec2_mbart": ("speech-encoder-decoder", {
        "encoder": {
            "model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 37, **_CONVOLUTIONS,
        },
        "decoder": {
            "model_type": "mbart", **_BART, "encoder_layers": 5, "is_decoder": True, "add_cross_attention": True,
            "is_encoder_decoder": False,
        },
        "pad_token_id": 0, "decoder_start_token_id": 2,
    }),
    "moonshine": ("moonshine", _MOONSHINE),
    "fsmt": ("fsmt", {
        "langs": ["en", "de"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, **_LAYERS,
        "max_position_embeddings": 128, **_SPECIAL,
    }),
    "prophetnet": ("prophetnet", {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, **_SPECIAL,
    }),
    "vit_gpt2": ("vision-encoder-decoder", {
        "encoder": {
            "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 37, "image_size": 16, "patch_size": 8,
        },
        "decoder": {
            "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64,
            "is_decoder": True, "add_cross_attention": True, **_SPECIAL,
        },
        "pad_token_id": 0, "decoder_start_token_id": 2,
    }),
    "donut": ("vision-encoder-decoder", {
        "encoder": {
            "model_type": "donut-swin", "image_size": [32, 64], "patch_size": 4, "embed_dim": 16, "depths": [1, 1],
            "num_heads": [2, 4], "window_size": 4,
        },
        "decoder": {
            "model_type": "mbart", **_BART, "encoder_layers": 5, "is_decoder": True, "add_cross_attention": True,
            "is_encoder_decoder": False,
        },
        "pad_token_id": 0, "decoder_start_token_id": 2,
    }),
    "blip": ("blip", {
        "text_config": {
            "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "projection_dim": 32,
            "sep_token_id": 51, **{name: _SPECIAL[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
        },
        "vision_config": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
            "image_size": 16, "patch_size": 8, "projection_dim": 32, "initializer_range": 0.02,
        },
        "projection_dim": 32,
    }),
}  # fmt: skip
SPEECH = ("whisper", "speech_to_text", "speecht5", "wav2vec2_mbart", "moonshine")
CAPTIONS = ("vit_gpt2", "donut", "blip")


@cache
def encoder_decoder(kind: str, *, seed: int = 20) -> Any:
    """Return the model of one of `KINDS`, in evaluation mode. Created once per process."""
    from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq

    model_type, values = KINDS[kind]
    maker = AutoModelForSpeechSeq2Seq if kind in SPEECH else AutoModelForSeq2SeqLM
    maker = AutoModelForImageTextToText if kind in CAPTIONS else maker
    return sharpened_generator(maker, model_type, values, seed=seed)


@cache
def described(kind: str) -> ModelSignature:
    """Return the model's signature, with its interface as parts.

    Raises:
        NotADecoderError: it has none.
    """
    return described_generator(encoder_decoder(kind), kind)


def part_request(
    kind: str, graph: Graph, backend: str, format: str, output: Path, route: str | None = None
) -> ExportRequest:
    """Return the request to export one part of the model."""
    return ExportRequest(
        backend=backend,
        source=MemorySource(encoder_decoder(kind)),
        task="text2text-generation",
        format=format,
        precision="fp32",
        samples=graph.samples(),
        inputs=graph.interface.inputs,
        outputs=graph.interface.outputs,
        state=graph.state,
        part=graph.name,
        output=output,
        route=route,
    )


def exported_parts(
    kind: str, format: str, folder: Path, *, exporter: str, route: str,
    change: Callable[[Artifact], Artifact] = lambda artifact: artifact,
) -> Artifact:  # fmt: skip
    """Export all parts of a model, and return them as one artifact.

    Args:
        change: of the exported decoder, such as an optimization.
    """
    parts = {}
    for graph in graphs_of(described(kind)):
        output = folder / graph.name
        output.mkdir(parents=True)
        made = manager().export(part_request(kind, graph, exporter, format, output, route))
        parts[graph.name] = change(made) if graph.state is not None else made
    signature = described(kind)
    return Artifact(
        format=format, path=folder, files=(), inputs=signature.inputs, outputs=signature.outputs, parts=parts
    )


def opened_parts(
    kind: str, backend: str, format: str, folder: Path, *, exporter: str, route: str,
    change: Callable[[Artifact], Artifact] = lambda artifact: artifact,
) -> EncoderDecoderSession:  # fmt: skip
    """Export all parts of a model, as `exported_parts` does, and open them."""
    whole = exported_parts(kind, format, folder, exporter=exporter, route=route, change=change)
    session = open_session(
        manager(), SessionRequest(backend=backend, artifact=whole, device="cpu", hardware=detect(), threads=1)
    )
    assert isinstance(session, EncoderDecoderSession)
    return session
