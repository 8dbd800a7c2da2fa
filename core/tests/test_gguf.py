"""GGUF files are read by transformers: the answers are those of the weights as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from optimum_core import accelerate
from optimum_core.errors import SourceError
from optimum_core.models.sources.source import open_source

_IDS = torch.tensor([[5, 9, 11, 2, 30, 7]])
_WORDS = [f"▁w{index}" for index in range(40)]


def _model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _stored(weight: torch.Tensor, heads: int | None) -> np.ndarray[Any, Any]:
    """Return a weight as llama.cpp stores it: rows of rotated heads in another order."""
    array = weight.detach().numpy()
    if heads is None:
        return array
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write(model: Any, path: Path) -> None:
    """Write a Llama as GGUF; its matrices as Q8_0."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *_WORDS[3:]])
    writer.add_token_scores([0.0] * 40)
    writer.add_token_types([2, 3, 3, *[1] * 37])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        array = _stored(weight, 4 if stem.endswith(("q_proj", "k_proj")) else None)
        kind = gguf.GGMLQuantizationType.Q8_0 if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(f"{names.get_name(stem)}.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_is_read_and_says_how_it_was_stored(tmp_path: Path) -> None:
    model = _model()
    _write(model, tmp_path / "model.gguf")
    source = open_source(tmp_path / "model.gguf")
    with torch.no_grad():
        want, got = model(_IDS).logits, source.module()(_IDS).logits
    assert 0 < float((want - got).abs().max()) < 0.05 * float(want.abs().max())  # eight bits are near, and not equal
    fast = accelerate(tmp_path, target="ort", budget=0, cache_dir=tmp_path / "cache")
    assert np.allclose(np.asarray(fast(input_ids=_IDS).logits), got, atol=1e-3)
    assert fast.report is not None
    assert any("GGUF as Q8_0" in note for note in fast.report.notes)


@pytest.mark.parametrize("sizes", [False, True])
def test_a_file_without_weights_is_named(sizes: bool, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    if sizes:
        writer.add_block_count(1)
        writer.add_embedding_length(32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lacking = "weights" if sizes else "weights and no embedding_length and no block_count"
    with pytest.raises(SourceError, match=f"vocabulary.gguf holds no {lacking}: it is a vocabulary alone"):
        accelerate(tmp_path / "vocabulary.gguf")
