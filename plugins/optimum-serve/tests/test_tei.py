"""The protocol of text-embeddings-inference, and that of Cohere for the order of texts: fields as clients read them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core import load

TEXTS = ["w5 w9 w7", "w50", "w10 w11 w12 w13 w14"]


def _ask(live: Any, path: str, body: Any, status: int = 200) -> Any:
    answer = live.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_tokens_have_their_text_and_its_place(live: Any) -> None:
    text = "w5  w9, w7"
    (tokens,) = _ask(live, "/tokenize", {"inputs": text})
    assert all(list(token) == ["id", "text", "special", "start", "stop"] for token in tokens)
    assert tokens[0] == {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
    within = tokens[1:-1]
    assert within[1] == {"id": 9, "text": "w9", "special": False, "start": 4, "stop": 6}
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in within)
    bare = _ask(live, "/tokenize", {"inputs": [text, "w5"], "add_special_tokens": False})
    assert bare == [within, [{"id": 5, "text": "w5", "special": False, "start": 0, "stop": 2}]]
    (behind,) = _ask(live, "/tokenize", {"inputs": "w9", "prompt_name": "query"})
    assert [token["id"] for token in behind] == [2, 5, 9, 3] and behind[2]["start"] == 3


def test_ids_become_texts_again(live: Any) -> None:
    (letters,) = _ask(live, "/models/writer/tokenize", {"inputs": "ab"})
    whole = [256, *(token["id"] for token in letters), 257]
    assert _ask(live, "/models/writer/decode", {"ids": whole}) == ["ab"]
    assert _ask(live, "/models/writer/decode", {"ids": [whole], "skip_special_tokens": False}) == ["<s>ab</s>"]
    ids = [[token["id"] for token in row] for row in _ask(live, "/tokenize", {"inputs": TEXTS})]
    np.testing.assert_allclose(
        _ask(live, "/embed", {"inputs": ids}), _ask(live, "/embed", {"inputs": TEXTS}), atol=1e-5
    )
    np.testing.assert_allclose(
        _ask(live, "/embed", {"inputs": ids[0]}), _ask(live, "/embed", {"inputs": TEXTS[0]}), atol=1e-5
    )


def test_every_token_has_a_vector(live: Any, artifacts: Path) -> None:
    found = _ask(live, "/embed_all", {"inputs": TEXTS})
    want = load(artifacts / "encoder").encode(TEXTS, output_value="token_embeddings")
    for rows, own in zip(found, want, strict=True):
        np.testing.assert_allclose(rows, own, atol=1e-5)


def test_the_description_has_every_field(live: Any, artifacts: Path) -> None:
    encoder = live.client.get("/info").json()
    assert encoder["model_id"] == "encoder" and encoder["model_type"] == {"embedding": {"pooling": "mean"}}
    assert encoder["model_dtype"] == "float32" and encoder["max_input_length"] == 64
    assert set(encoder) >= {
        "model_sha", "max_concurrent_requests", "max_batch_tokens", "max_batch_requests", "max_client_batch_size",
        "auto_truncate", "tokenization_workers", "version", "sha", "docker_label",
    }  # fmt: skip
    classifier = live.client.get("/models/classifier/info").json()["model_type"]
    assert classifier == {
        "classifier": {
            "id2label": {"0": "BAD", "1": "GOOD", "2": "SO-SO"},
            "label2id": {"BAD": 0, "GOOD": 1, "SO-SO": 2},
        }
    }
    assert live.client.get("/ping").status_code == 200


def test_fields_as_clients_send_them(live: Any) -> None:
    """Null where a field is left to the server, and sides with a capital, as in the original."""
    plain = _ask(live, "/embed", {"inputs": "w5"})
    sent = {"inputs": "w5", "truncate": None, "truncation_direction": "Right", "prompt_name": None}
    assert _ask(live, "/embed", sent) == plain
    assert _ask(live, "/", sent) == plain and _ask(live, "/invocations", sent) == plain
    (coded,) = _ask(live, "/embed", {"inputs": "w5", "encoding_format": "base64"})
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), plain[0], atol=1e-6)
    sentences: dict[str, Any] = {"inputs": {"source_sentence": "w5", "sentences": ["w5", "w9"]}}
    first = _ask(live, "/similarity", sentences)
    assert _ask(live, "/similarity", {**sentences, "parameters": {"truncate": True}}) == first
    assert _ask(live, "/similarity", {**sentences, "parameters": {"prompt_name": "query"}}) != first
    vector = _ask(live, "/embeddings", {"input": "w5", "model": "encoder"})["data"][0]["embedding"]
    np.testing.assert_allclose(vector, plain[0], atol=1e-6)


def test_texts_are_cut_on_the_side_that_is_named(live: Any) -> None:
    """The model takes 64 tokens, of which two stand around the text."""
    words = [f"w{number % 50 + 5}" for number in range(100)]
    long, ends = " ".join(words), {"left": " ".join(words[-62:]), "right": " ".join(words[:62])}
    for side, kept in ends.items():
        cut: dict[str, Any] = {"inputs": long, "truncate": True, "truncation_direction": side.capitalize()}
        for path in ("/embed", "/embed_all", "/models/classifier/predict"):
            assert _ask(live, path, cut) == _ask(live, path, {"inputs": kept}), (path, side)
        pair = {"source_sentence": "w5", "sentences": [long, "w9"]}
        parameters = {"truncate": True, "truncation_direction": side}
        similar = _ask(live, "/similarity", {"inputs": pair, "parameters": parameters})
        assert similar == _ask(live, "/similarity", {"inputs": {**pair, "sentences": [kept, "w9"]}})
        ranked = _ask(live, "/rerank", {"query": "w5", "texts": [long], **parameters})
        end = " ".join(words[-60:] if side == "left" else words[:60])  # beside the question and one token more
        assert ranked == _ask(live, "/rerank", {"query": "w5", "texts": [end]})
    assert "64" in _ask(live, "/embed", {"inputs": long, "truncation_direction": "left"}, status=413)["error"]
    assert "left or right" in _ask(live, "/embed", {"inputs": "w5", "truncation_direction": "up"}, status=422)["error"]
    documents = {"query": "w5", "documents": [long], "truncation_direction": "left"}
    assert "goes with texts" in _ask(live, "/rerank", documents, status=422)["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": ""}),
        ("/embed", {"inputs": ["w5", ""]}),
        ("/embed_all", {"inputs": ""}),
        ("/predict", {"inputs": ""}),
        ("/predict", {"inputs": ["", ""]}),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["w5"]}}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {"input": ["w5", ""]}),
    ],
)
def test_an_empty_text_is_refused_everywhere(path: str, body: Any, live: Any) -> None:
    assert "empty" in str(_ask(live, path, body, status=400)["error"])


def test_documents_are_ordered_in_the_form_of_cohere(live: Any, artifacts: Path) -> None:
    want = load(artifacts / "reranker").rank("w5", TEXTS)
    body: dict[str, Any] = {"model": "reranker", "query": "w5", "documents": TEXTS}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = _ask(live, path, {**body, "top_n": 2, "return_documents": True})
        assert [item["index"] for item in found["results"]] == [item["corpus_id"] for item in want[:2]]
        assert [item["relevance_score"] for item in found["results"]] == pytest.approx(
            [item["score"] for item in want[:2]], abs=1e-5
        )
        assert [item["document"] for item in found["results"]] == [
            {"text": TEXTS[item["corpus_id"]]} for item in want[:2]
        ]
        assert found["usage"]["total_tokens"] == found["meta"]["tokens"]["input_tokens"] > 0
    plain = _ask(live, "/v1/rerank", body)["results"]
    assert len(plain) == 3 and "document" not in plain[0]
    of_objects = _ask(live, "/v1/rerank", {**body, "documents": [{"text": text} for text in TEXTS]})
    assert of_objects["results"] == plain
    long = _ask(live, "/v1/rerank", {**body, "documents": ["w5 " * 500, "w9"], "max_tokens_per_doc": 4096})
    assert len(long["results"]) == 2  # what is too long is cut, as there
    assert _ask(live, "/models/reranker", {"query": "w5", "texts": TEXTS}) == _ask(
        live, "/rerank", {"query": "w5", "texts": TEXTS}
    )


def test_a_share_near_none_is_not_none() -> None:
    from optimum_serve.protocols.classes import sigmoid

    logits = np.array([-1e4, -20, 0, 20, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(logits), [0, 2.0612e-9, 0.5, 1, 1], rtol=1e-4)


def test_the_page_names_every_path() -> None:
    from optimum_serve.application import ENDPOINTS

    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text("utf-8").partition("## How requests")[0]
    named = {path.rstrip("/") for path in re.findall(r"`(/[^`]*)`", page)}
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{model:path}", "NAME").replace("{model}", "NAME").removeprefix("/models/NAME")
        assert any(path.rstrip("/").endswith(name) or not path.strip("/") for name in named), endpoint.path
