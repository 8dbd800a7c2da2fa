"""The pooling of a sentence encoder behind a graph that is its transformer alone, as other packages convert it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_core import accelerate, load
from optimum_core.artifact.embedding import MODULES
from optimum_core.errors import InputError, SourceError
from optimum_core.models.sources.sentences.pooling import read_pooling
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.pooled import PooledMapper
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


def _write_graph(directory: Path) -> None:
    """Write a transformer of one table, which gives each token its row."""
    (directory / "onnx").mkdir(parents=True)
    ids, hidden = (
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch_size", "sequence_length", 8]),
    )
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    graph = helper.make_graph(nodes, "g", [ids], [hidden], [numpy_helper.from_array(_TABLE, "table")])
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


def test_modules_that_are_not_applied_are_named(tmp_path: Path) -> None:
    _write_graph(tmp_path / "theirs")
    mean: dict[str, Any] = {"pooling_mode": "mean"}
    for modules, told in (
        ([("Pooling", mean), ("Dense", {"in_features": 8})], "its modules are Pooling, Dense, and behind a graph"),
        ([("Pooling", {**mean, "include_prompt": False})], "its pooling leaves the tokens of prompts out"),
    ):
        _write_modules(tmp_path / "theirs", *modules)
        fast = accelerate(tmp_path / "theirs", target="ort", budget=0, cache_dir=tmp_path / "cache")
        assert not fast.embeds
        with pytest.raises(InputError, match=f"no sentence embedding: {told}"):
            fast.encode(_TEXTS)


@pytest.mark.parametrize("mode", _MODES)
def test_every_mode(mode: str, tmp_path: Path) -> None:
    _write_modules(tmp_path, ("Pooling", {"pooling_mode": mode}))
    inputs = [
        TensorSpec(name=name, dtype="int64", shape=("batch", "sequence")) for name in ("input_ids", "attention_mask")
    ]
    hidden = TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", 8))
    mapper = Mapper("m", lambda feed: {"last_hidden_state": _TABLE[feed["input_ids"]]}, inputs, [hidden])
    items = [{"input_ids": ids} for ids in ([2, 5, 9, 7, 3], [2, 3], [4])]
    pooled = PooledMapper(mapper, read_pooling(tmp_path, "m"), ["sentence_embedding"], 8)
    found = pooled.map(items, 2, lambda done: None)["sentence_embedding"]
    np.testing.assert_allclose(found, [_MODES[mode](_TABLE[item["input_ids"]]) for item in items], rtol=1e-5)


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([("Pooling", {"pooling_mode": "median"})], "median"),
        ([("Pooling", {"pooling_mode": "mean", "window": 3})], "window"),
        ([("Pooling", {"pooling_mode": "mean"}), ("Normalize", {"module_input_name": "other"})], "other"),
        ([("Pooling", {"pooling_mode": "mean"}), ("Normalize", {}), ("Normalize", {})], "Normalize, Normalize"),
    ],
)  # fmt: skip
def test_settings_that_are_not_understood(modules: list[Any], told: str, tmp_path: Path) -> None:
    _write_modules(tmp_path, *modules)
    with pytest.raises(SourceError, match=told):
        read_pooling(tmp_path, "m")
