"""Sparse embeddings of a masked language model, beside the eager model's own values."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.testing.kinds import tiny_module
from optimum_serve import ModelSettings, serving, sparse
from sentence_directories import write_tokenizer

TEXTS = ["w5 w9 w7", "w50", "w10 w11 w12 w13 w14", "w7 w9"]
WORDS = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as sentence-transformers writes a `SparseEncoder`."""
    place = tmp_path_factory.mktemp("splade")
    tiny_module("bert masked").save_pretrained(place)
    write_tokenizer(place)
    kinds = {"": "base.models.Transformer", "1_SpladePooling": "sparse_encoder.models.SpladePooling"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (place / "modules.json").write_text(json.dumps(modules), "utf-8")
    (place / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}', "utf-8")
    return place


@pytest.fixture(scope="module")
def splade(source: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of that directory, and of the models of others."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(serving, "accelerate", partial(accelerate, budget=0, cache_dir=cache))
        stated = ModelSettings(source=str(source), name="splade", target="ort", task="fill-mask")
        return serve("encoder", stated, truth_sample=1)


def _eager(source: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = tiny_module("bert masked")(**tokens).logits
    weights = torch.log1p(torch.relu(logits)) * tokens["attention_mask"][..., None]
    return np.asarray(weights.max(dim=1).values)


def _dense(entries: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    found = np.zeros(WORDS, np.float32)
    for entry in entries:
        assert set(entry) == {"index", "value"} and entry["value"] > 0
        found[entry["index"]] = entry["value"]
    return found


def test_weights_are_those_of_the_eager_model(splade: Any, source: Path) -> None:
    answer = splade.client.post("/embed_sparse", json={"inputs": TEXTS})
    assert answer.status_code == 200, answer.text
    want = _eager(source, TEXTS)
    assert 0 < np.count_nonzero(want) < want.size
    np.testing.assert_allclose([_dense(entries) for entries in answer.json()], want, atol=1e-5)
    (one,) = splade.client.post("/models/splade/embed_sparse", json={"inputs": TEXTS[1]}).json()
    np.testing.assert_allclose(_dense(one), want[1], atol=1e-5)


def test_texts_of_one_request_run_in_batches_that_memory_bears(
    splade: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "_MOST_LOGITS", 9 * WORDS)
    sizes: list[int] = []
    model = splade.app.state.server.models["splade"]
    monkeypatch.setattr(model.watch, "batch", lambda items: sizes.append(len(items)))
    answer = splade.client.post("/embed_sparse", json={"inputs": TEXTS})
    np.testing.assert_allclose([_dense(entries) for entries in answer.json()], _eager(source, TEXTS), atol=1e-5)
    assert sum(sizes) == len(TEXTS) and len(sizes) > 1


def test_the_limits_of_a_request_hold(splade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = splade.client.post("/embed_sparse", json={"inputs": "w5 " * 500})
    assert long.status_code == 413 and "64" in long.json()["error"]
    cut = splade.client.post("/embed_sparse", json={"inputs": "w5 " * 500, "truncate": True})
    assert cut.status_code == 200
    monkeypatch.setattr("optimum_serve.limits._MOST_ENTRIES", 10)
    many = splade.client.post("/embed_sparse", json={"inputs": TEXTS})
    assert many.status_code == 413 and "send fewer texts" in many.json()["error"]


def test_another_model_gives_none(splade: Any) -> None:
    answer = splade.client.post("/models/encoder/embed_sparse", json={"inputs": "w5"})
    assert answer.status_code == 424 and "'splade'" in answer.json()["error"]


def test_the_description_says_how_it_pools(splade: Any) -> None:
    found = splade.client.get("/models/splade/info").json()
    assert found["model_type"] == {"embedding": {"pooling": "splade"}}


def test_what_the_original_does_not_give_is_not_compared_with_it(splade: Any) -> None:
    assert splade.client.post("/embed_sparse", json={"inputs": TEXTS}).status_code == 200
    metrics = splade.client.get("/metrics").text
    assert not [line for line in metrics.splitlines() if "truth" in line and 'model="splade"' in line]
