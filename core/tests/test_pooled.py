"""The pooling of a sentence encoder behind a graph that is its transformer alone, as other packages convert it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optimum_core import accelerate, load
from optimum_core.artifact.embedding import MODULES
from optimum_core.errors import InputError, SourceError
from optimum_core.models.sources.sentences.behind import read_behind
from optimum_core.models.sources.sentences.heads import Pooling
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.pooled import PooledMapper, applied
from optimum_core.runtime.vectors import similarity
from optimum_core.types import TensorSpec
from sentence_directories import write_tokenizer

_TABLE = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)
_TEXTS = ["w5 w9", "w7", "w50 w51 w52 w53 w54"]
_TYPES = "sentence_transformers.models."
#: Each mode by hand, of the token vectors of one text.
_MODES: dict[str, Callable[[Any], Any]] = {
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.max(axis=0),
    "mean": lambda tokens: tokens.mean(axis=0),
    "mean_sqrt_len_tokens": lambda tokens: tokens.sum(axis=0) / len(tokens) ** 0.5,
    "weightedmean": lambda tokens: np.average(tokens, axis=0, weights=np.arange(1, len(tokens) + 1)),
    "lasttoken": lambda tokens: tokens[-1],
}


def _write_modules(directory: Path, *modules: tuple[str, dict[str, Any]]) -> None:
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{_TYPES}Transformer"}]
    for number, (kind, stated) in enumerate(modules, 1):
        place = directory / f"{number}_{kind}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(stated))
        listed.append({"idx": number, "name": str(number), "path": place.name, "type": f"{_TYPES}{kind}"})
    (directory / MODULES).write_text(json.dumps(listed))


def _write_graph(directory: Path, *, gives: str = "last_hidden_state", means: bool = False) -> None:
    """Write a transformer of one table, which gives each token its row.

    Args:
        gives: the name of this output; "": it is none, and there is the mean alone.
        means: give the mean too, as a sentence embedding.
    """
    (directory / "onnx").mkdir(parents=True)
    ids, hidden = (
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
        helper.make_tensor_value_info(gives, TensorProto.FLOAT, ["batch_size", "sequence_length", 8]),
    )
    mean = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch_size", 8])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], [gives or "rows"]),
        helper.make_node("ReduceMean", [gives or "rows", "axis"], ["sentence_embedding"], keepdims=0),
    ]
    outputs = [*([hidden] if gives else []), *([mean] if means else [])]
    weights = [numpy_helper.from_array(_TABLE, "table"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes[: 2 if means else 1], "g", [ids], outputs, weights[: 2 if means else 1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, directory / "onnx" / "model.onnx")
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 120, "hidden_size": 8}))
    write_tokenizer(directory)


def test_a_graph_of_the_transformer_gives_the_vectors_of_its_modules(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    _write_graph(theirs)
    _write_modules(theirs, ("Pooling", {"pooling_mode": ["cls", "mean"]}), ("Normalize", {}))
    fast = accelerate(theirs, target="ort", budget=0, cache_dir=tmp_path / "cache")
    found = fast.encode(_TEXTS)
    for ids, vector in zip((item["input_ids"] for item in fast.tokenize(_TEXTS)), found, strict=True):
        tokens = _TABLE[list(ids)]
        want = np.concatenate([tokens[0], tokens.mean(axis=0)])
        np.testing.assert_allclose(vector, want / np.linalg.norm(want), rtol=1e-5)
    assert fast.embeds and fast.get_embedding_dimension() == 16
    assert fast.encode([]).shape == (0,)
    np.testing.assert_array_equal(fast.map(_TEXTS, outputs=["sentence_embedding"])["sentence_embedding"], found)
    both = fast.encode(_TEXTS[1], output_value=None)
    assert both["token_embeddings"].shape[1] == 8 and np.array_equal(both["sentence_embedding"], found[1])
    assert [len(row) for row in fast.encode(_TEXTS, output_value="token_embeddings")] == [
        len(item["input_ids"]) for item in fast.tokenize(_TEXTS)
    ]
    fast.save_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(load(tmp_path / "own").encode(_TEXTS), found)
    fast.save_pretrained(tmp_path / "again", layout="optimum")
    assert json.loads((tmp_path / "again" / MODULES).read_text()) == json.loads((theirs / MODULES).read_text())
    assert (tmp_path / "again" / "1_Pooling" / "config.json").is_file()


@pytest.mark.parametrize(("gives", "listed"), [("token_embeddings", None), ("", True), ("", False), ("", None)])
def test_a_graph_that_pools_itself_is_laid_out_as_it_is(gives: str, listed: bool | None, tmp_path: Path) -> None:
    """One of another package's making, without the list of its modules, or without the vectors of tokens."""
    _write_graph(tmp_path / "theirs", gives=gives, means=True)
    if listed is not None:
        _write_modules(tmp_path / "theirs", ("Pooling", {"pooling_mode": "mean"}))
        if not listed:  # damaged, which nothing here reads
            (tmp_path / "theirs" / MODULES).write_text("{}")
    fast = accelerate(tmp_path / "theirs", target="ort", budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "out", layout="optimum")
    outputs = [value.name for value in onnx.load(tmp_path / "out" / "model.onnx").graph.output]
    assert outputs == [*([gives] if gives else []), "sentence_embedding"]


def test_a_list_of_modules_that_is_not_there_is_told_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"modules\.json cannot be read"):
        read_behind(tmp_path, "m")


def test_modules_that_are_not_applied_are_named(tmp_path: Path) -> None:
    _write_graph(tmp_path / "theirs")
    mean: dict[str, Any] = {"pooling_mode": "mean"}
    sizes = {"in_features": 8, "out_features": 4}
    for modules, told in (
        ([("Pooling", mean), ("Dense", sizes)], "the weights of its module Dense are not in"),
        ([("Pooling", {**mean, "include_prompt": False})], "its pooling leaves the tokens of prompts out"),
    ):
        _write_modules(tmp_path / "theirs", *modules)
        fast = accelerate(tmp_path / "theirs", target="ort", budget=0, cache_dir=tmp_path / "cache")
        assert not fast.embeds and fast.report is not None
        assert any("is NOT done" in note for note in fast.report.notes)
        with pytest.raises(InputError, match=f"no sentence embedding: {told}"):
            fast.encode(_TEXTS)


def _pooled(directory: Path, mode: str, table: Any, *behind: tuple[str, dict[str, Any]]) -> PooledMapper:
    """Return a runner of one table, with modules behind it."""
    _write_modules(directory, ("Pooling", {"pooling_mode": mode}), *behind)
    inputs = [
        TensorSpec(name=name, dtype="int64", shape=("batch", "sequence")) for name in ("input_ids", "attention_mask")
    ]
    hidden = TensorSpec(name="last_hidden_state", dtype=str(table.dtype), shape=("batch", "sequence", 8))
    mapper = Mapper("m", lambda feed: {"last_hidden_state": table[feed["input_ids"]]}, inputs, [hidden])
    return PooledMapper(mapper, read_behind(directory, "m"), ["sentence_embedding", "token_embeddings"], 8)


@pytest.mark.parametrize("mode", _MODES)
def test_a_graph_in_16_bits_is_pooled_in_32(mode: str, tmp_path: Path) -> None:
    """Sums of 512 tokens, and squares of large values, leave the range of 16 bits."""
    table = (_TABLE * 200).astype(np.float16)
    ids = list(np.random.default_rng(1).integers(0, 120, 512))
    pooled = _pooled(tmp_path, mode, table, ("Normalize", {}))
    answer = pooled.map([{"input_ids": ids}], 1, lambda done: None)
    (found,), (own,) = answer["sentence_embedding"], answer["token_embeddings"]
    assert own.dtype == np.float16 and np.array_equal(own, table[ids])
    pooling = Pooling((mode,), 8)
    tokens, mask = torch.tensor(table[ids].astype(np.float32))[None], torch.ones(1, 512, dtype=torch.int64)
    want = pooling({"token_embeddings": tokens, "attention_mask": mask})["sentence_embedding"][0].numpy()
    np.testing.assert_allclose(found, want / np.linalg.norm(want), rtol=1e-4, atol=1e-6)
    vectors = np.stack([want, want]).astype(np.float16)
    np.testing.assert_allclose(similarity("cosine", vectors, vectors, "m"), 1, rtol=1e-3)


@pytest.mark.parametrize("mode", _MODES)
def test_a_text_without_tokens_has_no_mean_and_no_token(mode: str, tmp_path: Path) -> None:
    _write_modules(tmp_path, ("Pooling", {"pooling_mode": mode}))
    behind, row = read_behind(tmp_path, "m"), np.empty((0, 8), np.float32)
    if mode in ("cls", "max", "lasttoken"):
        with pytest.raises(InputError, match="a text has no token"):
            applied(behind, row)
    else:
        np.testing.assert_array_equal(applied(behind, row)["sentence_embedding"], np.zeros(8))


@pytest.mark.parametrize("mode", _MODES)
def test_every_mode(mode: str, tmp_path: Path) -> None:
    items = [{"input_ids": ids} for ids in ([2, 5, 9, 7, 3], [2, 3], [4])]
    pooled = _pooled(tmp_path, mode, _TABLE)
    found = pooled.map(items, 2, lambda done: None)["sentence_embedding"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [_MODES[mode](_TABLE[item["input_ids"]]) for item in items], rtol=1e-5)


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([("Pooling", {"pooling_mode": "median"})], "median"),
        ([("Pooling", {"pooling_mode": "mean", "window": 3})], "window"),
        ([("Pooling", {"pooling_mode": "mean"}), ("Normalize", {"module_input_name": "other"})], "other"),
        ([("Pooling", {"pooling_mode": "mean"}), ("Dense", {"in_features": 8})], "Dense are not in"),
    ],
)  # fmt: skip
def test_settings_that_are_not_understood(modules: list[Any], told: str, tmp_path: Path) -> None:
    _write_modules(tmp_path, *modules)
    with pytest.raises(SourceError, match=told):
        read_behind(tmp_path, "m")
