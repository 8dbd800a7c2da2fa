"""Pairs of texts are scored and documents ranked as sentence-transformers' `CrossEncoder` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import InputError
from sentence_directories import TEXTS, tiny_transformer, write_tokenizer


def _close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def fast_bert(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AcceleratedModel]:
    """A cross-encoder: one label for a pair of texts."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_transformer().config
    config.num_labels = 1
    place, cache = tmp_path_factory.mktemp("cross") / "model", tmp_path_factory.mktemp("cache")
    BertForSequenceClassification(config).eval().save_pretrained(place)
    write_tokenizer(place)
    with accelerate(place, target="ort", level="all", shapes=((1, 8),), budget=0, cache_dir=cache) as made:
        yield made


def test_pairs_are_scored_and_documents_ranked(fast_bert: AcceleratedModel) -> None:
    from transformers import AutoTokenizer

    query, documents = "w5 w6", ["w7", "w8 w9 w10 w11", "", "w5"]
    tokenizer = AutoTokenizer.from_pretrained(fast_bert.directory)
    encoded = [tokenizer([query], [text], return_tensors="np") for text in documents]
    assert all((item["token_type_ids"] == 1).any() for item in encoded)
    logits = [fast_bert(**item).logits[0, 0] for item in encoded]
    want = 1 / (1 + np.exp(-np.array(logits)))
    pairs = [(query, text) for text in documents]
    _close(fast_bert.predict(pairs), want)
    _close(fast_bert.predict(pairs[0]), want[0])
    _close(fast_bert.predict(pairs, activation_fn=torch.nn.Identity()), logits)
    order = np.argsort(-want)
    found = fast_bert.rank(query, documents, return_documents=True)
    assert [item["corpus_id"] for item in found] == order.tolist()
    assert [item["text"] for item in found] == [documents[place] for place in order]
    assert [item["corpus_id"] for item in fast_bert.rank(query, documents, top_k=2)] == order[:2].tolist()
    assert fast_bert.rank(query, []) == []
    assert fast_bert.rank(query, iter(documents), return_documents=True) == found  # type: ignore[arg-type]
    for given, top_k, told in (("abc", 2, "str came"), ({"w5"}, 2, "no order"), (documents, -1, "top_k is -1")):
        with pytest.raises(InputError, match=told):
            fast_bert.rank(query, given, top_k=top_k)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NoneType came for pairs"):
        fast_bert.predict()


def test_what_is_no_pair_is_refused(fast_bert: AcceleratedModel) -> None:
    with pytest.raises(InputError, match="'w5' is no pair of texts"):
        fast_bert.predict(["w5"])


def test_a_model_without_sentence_embeddings_says_so(
    fast_bert: AcceleratedModel,
) -> None:
    with pytest.raises(InputError, match=r"no sentence embedding(.|\n)*modules\.json"):
        fast_bert.encode(TEXTS)
    assert fast_bert.get_embedding_dimension() is None
