"""The server's answers, to right requests and to wrong, large and slow ones, and the settings of its models."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from optimum_core import load
from optimum_core.artifact import load as read
from optimum_core.artifact import write
from waiting import until

TEXTS = ["w5 w9 w7", "w50", "w10 w11 w12 w13 w14"]


def _post(live: Any, path: str, body: Any, **more: Any) -> httpx.Response:
    return live.client.post(path, json=body, **more)  # type: ignore[no-any-return]


# Answers.


def test_embeddings_of_tei(live: Any, artifacts: Path) -> None:
    model = load(artifacts / "encoder")
    np.testing.assert_allclose(_post(live, "/embed", {"inputs": TEXTS}).json(), model.encode(TEXTS), atol=1e-5)
    asked = _post(live, "/models/encoder/embed", {"inputs": "w9", "prompt_name": "query"}).json()
    np.testing.assert_allclose(asked[0], model.encode("w9", prompt_name="query"), atol=1e-5)
    long = "w5 " * 100
    refused = _post(live, "/embed", {"inputs": long})
    assert refused.status_code == 413 and "takes 64" in refused.json()["error"]
    cut = _post(live, "/embed", {"inputs": long, "truncate": True}).json()
    np.testing.assert_allclose(cut[0], model.encode(long), atol=1e-5)
    pairs = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    want = model.similarity(model.encode(TEXTS[:1]), model.encode(TEXTS[1:]))[0]
    np.testing.assert_allclose(_post(live, "/similarity", pairs).json(), want, atol=1e-5)


def test_scores_of_tei(live: Any, artifacts: Path) -> None:
    reranker, classifier = load(artifacts / "reranker"), load(artifacts / "classifier")
    ranked = _post(live, "/rerank", {"query": "w5", "texts": TEXTS, "return_text": True}).json()
    want = reranker.rank("w5", TEXTS)
    assert [item["index"] for item in ranked] == [item["corpus_id"] for item in want]
    assert [item["score"] for item in ranked] == pytest.approx([item["score"] for item in want], abs=1e-5)
    assert [item["text"] for item in ranked] == [TEXTS[item["index"]] for item in ranked]
    raw = _post(live, "/models/classifier/predict", {"inputs": [["w5", "w9"], ["w7"]], "raw_scores": True}).json()
    labels = ["BAD", "GOOD", "SO-SO"]
    pair = dict(zip(labels, classifier.map([("w5", "w9")]).logits[0], strict=True))
    assert {item["label"]: item["score"] for item in raw[0]} == pytest.approx(pair, abs=1e-5)
    assert len(raw) == 2


def test_files_of_pictures(live: Any, artifacts: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    files = [("file", ("a.png", file.getvalue(), "image/png"))]
    found = live.client.post("/models/pictures/predict", files=files).json()
    logits = load(artifacts / "pictures").map([picture]).logits[0]
    powers = np.exp(logits - logits.max())
    assert found[0]["score"] == pytest.approx((powers / powers.sum()).max(), abs=1e-5)
    assert found[0]["label"] == f"LABEL_{logits.argmax()}"
    raw = live.client.post("/models/pictures", content=file.getvalue(), headers={"Content-Type": "image/png"})
    assert raw.json() == found
    bad = live.client.post("/models/pictures/predict", files=[("file", ("a.png", b"no picture", "image/png"))])
    assert bad.status_code == 422 and "no picture" in bad.json()["error"]
    wide = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(wide, "PNG")
    cut = live.client.post("/models/pictures", content=wide.getvalue(), headers={"Content-Type": "image/png"})
    assert cut.status_code == 422 and "more than 8 bits" in cut.json()["error"]
    encoded = {"inputs": base64.b64encode(file.getvalue()).decode(), "parameters": {"top_k": 2}}
    assert _post(live, "/models/pictures", encoded).json() == found[:2]
    assert live.client.post("/models/pictures", content=file.getvalue()).json() == found  # no type, yet a picture
    as_uri = {**encoded, "inputs": f"data:image/png;base64,{encoded['inputs']}"}
    assert _post(live, "/models/pictures", as_uri).json() == found[:2]
    fetched = _post(live, "/models/pictures", {"inputs": "https://a.example/a.png"})
    assert fetched.status_code == 422 and "fetches nothing" in fetched.json()["error"]
    with_field = live.client.post("/models/pictures/predict", files=files, data={"top_k": "2"})
    assert with_field.json() == found[:2]
    unknown = live.client.post("/models/pictures/predict", files=files, data={"top_n": "2"})
    assert unknown.status_code == 422 and "top_n" in unknown.json()["error"]
    no_base64 = live.client.post("/models/pictures", json={"inputs": "a cat"})
    assert no_base64.status_code == 422 and "base64" in no_base64.json()["error"]


def test_the_description_the_page_and_the_figures(live: Any) -> None:
    described = live.client.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0" and "/v1/chat/completions" in described["paths"]
    page = live.client.get("/")
    assert page.status_code == 200 and "status.json" in page.text and "http" not in page.text.replace("http-equiv", "")
    _post(live, "/embed", {"inputs": TEXTS})
    status = {model["name"]: model for model in live.client.get("/status.json").json()["models"]}
    assert status["encoder"]["proof"] == "verified" and status["encoder"]["requests_per_second"] > 0
    assert {name: model["kind"] for name, model in status.items()} == {
        "encoder": "embedding", "reranker": "reranker", "classifier": "classifier", "writer": "generation",
        "pictures": "classifier",
    }  # fmt: skip
    figures = {family.name: family for family in text_string_to_metric_families(live.client.get("/metrics").text)}
    sizes = {
        sample.labels["model"]: sample.value
        for sample in figures["optimum_batch_size"].samples
        if sample.name.endswith("_count")
    }
    assert sizes["encoder"] >= 1 and figures["optimum_memory_bytes"].samples[0].value > 1e6
    assert all(family.documentation and family.type != "unknown" for family in figures.values())


# Wrong requests.

_LONG = json.dumps({"prompt": "a" * 200}).encode()
_TWICE = b'{"inputs": [%s, %s]}' % ((b'{"name": "input_ids", "shape": [1, 1], "datatype": "INT64", "data": [2]}',) * 2)
_TENSOR = b'{"inputs": [{"name": "input_ids", "shape": [1, %s], "datatype": "%s", "data": [%s]}]}'


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/embed", b"", 400),
        ("/embed", b"{", 400),
        ("/embed", b"[" * 100_000, 422),
        ("/embed", b'{"inputs": 5}', 422),
        ("/embed", b'{"inputs": []}', 400),
        ("/embed", b'{"inputs": "\xff"}', 400),
        ("/embed", b'{"inputs": "w5", "prompt_name": "none"}', 422),
        ("/embed_sparse", b'{"inputs": "w5"}', 424),
        ("/models/none/embed", b'{"inputs": "w5"}', 404),
        ("/models/classifier/embed", b'{"inputs": "w5"}', 424),
        ("/rerank", b'{"query": "w5", "texts": []}', 400),
        ("/predict", b'{"inputs": ["w5", "w6", "w7"]}', 422),
        ("/v1/embeddings", b'{"input": ["w5", [2]]}', 400),
        ("/v1/embeddings", b'{"input": [[2, 9999, 3]]}', 400),
        ("/v1/embeddings", b'{"input": [[]]}', 400),
        ("/v1/chat/completions", b'{"messages": []}', 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "tools": [1]}', 400),
        ("/v1/completions", b'{"prompt": "ab", "temperature": -1}', 400),
        ("/v2/models/classifier/infer", b'{"inputs": []}', 400),
        ("/v2/models/classifier/infer", _TENSOR % (b"9", b"INT64", b"2"), 400),
        ("/v2/models/classifier/infer", _TENSOR % (b"1", b"INT64", b"2.5"), 400),
        ("/v2/models/classifier/infer", _TENSOR % (b"1", b"BYTES", b'"a"'), 400),
        ("/tokenize", b'{"inputs": []}', 400),
        ("/decode", b'{"ids": []}', 400),
        ("/decode", b'{"ids": [[]]}', 400),
        ("/decode", b'{"ids": [2, [5]]}', 422),
        ("/decode", b'{"ids": [99999]}', 422),
        ("/rerank", b'{"query": "w5"}', 422),
        ("/rerank", b'{"query": "w5", "texts": ["w6"], "documents": ["w6"]}', 422),
        ("/rerank", b'{"query": "w5", "documents": ["w6"], "raw_scores": true}', 422),
        ("/rerank", b'{"query": "w5", "texts": ["w6"], "return_documents": true}', 422),
        ("/v1/rerank", b'{"query": "w5", "documents": []}', 400),
        ("/v1/rerank", b'{"query": "w5", "documents": ["w6"], "max_tokens_per_doc": 2}', 400),
        ("/v1/rerank", b'{"query": "w5", "documents": [{"title": "w6"}]}', 400),
        ("/v1/rerank", b'{"query": "w5", "documents": ["w6"], "top_n": 0}', 400),
        ("/models/classifier/embed_all", b'{"inputs": "w5"}', 424),
        ("/models/classifier", b'{"inputs": "w5", "parameters": {"candidate_labels": ["a"]}}', 422),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "functions": [1]}', 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "min_tokens": 5}', 400),
        ("/v1/completions", _LONG, 400),
        ("/v2/models/classifier/versions/9/infer", _TENSOR % (b"1", b"INT64", b"2"), 404),
        ("/v2/models/classifier/infer", _TENSOR % (b"1", b"BOOL", b"true"), 400),
        ("/v2/models/classifier/infer", _TWICE, 400),
        ("/nowhere", b"{}", 404),
    ],
)  # fmt: skip
def test_wrong_requests_are_told_why_and_harm_nobody(path: str, body: bytes, status: int, live: Any) -> None:
    answer = live.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] and "Traceback" not in answer.text
    assert _post(live, "/embed", {"inputs": "w5"}).status_code == 200


def test_a_slash_at_the_end_of_a_path_makes_no_difference(live: Any) -> None:
    """A redirection would name the address at which the server is known to itself, not that of its proxy."""
    for path in ("/v1/models/", "/health//", "/v2/models/classifier/"):
        answer = live.client.get(path, follow_redirects=False)
        assert answer.status_code == 200 and answer.content == live.client.get(path.rstrip("/")).content
    assert live.client.get("/nowhere/", follow_redirects=False).status_code == 404
    assert live.client.get("//").status_code == 200


def test_a_client_that_asks_for_a_web_socket_is_answered(live: Any, caplog: pytest.LogCaptureFixture) -> None:
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a"}
    with caplog.at_level("INFO", logger="uvicorn.error"):
        assert live.client.get("/health", headers=asked).status_code == 200
    assert "asked for a WebSocket" in caplog.text and "pip install" not in caplog.text


def test_limits_of_bodies_inputs_and_time(serve: Any) -> None:
    live = serve("encoder", max_body=5000, max_inputs=4, body_timeout=0.5, auto_truncate=True)
    cut = _post(live, "/v1/embeddings", {"input": "w5 " * 100}).json()
    assert cut["usage"]["prompt_tokens"] == 64 and live.client.get("/info").json()["auto_truncate"]
    assert _post(live, "/embed", {"inputs": "w5 " * 100, "truncate": False}).status_code == 413
    assert _post(live, "/embed", {"inputs": "w5 " * 3000}).status_code == 413
    many = _post(live, "/embed", {"inputs": ["w5"] * 5})
    assert many.status_code == 413 and "4 are allowed" in many.json()["error"]
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in slow.recv(1000)
    assert _post(live, "/embed", {"inputs": "w5"}).status_code == 200


def test_compressed_bodies_and_named_models_that_cannot_are_told_what_can(live: Any) -> None:
    packed = live.client.post(
        "/embed", content=gzip.compress(b'{"inputs": "w5"}'), headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415 and "gzip" in packed.json()["error"]
    for kind in ("application/xml", "multipart/form-data; boundary=a"):
        other = live.client.post("/embed", content=b"<a/>", headers={"Content-Type": kind})
        assert other.status_code == 415 and "send JSON" in other.json()["error"]
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl says of any body
    assert live.client.post("/embed", content=b'{"inputs": "w5"}', headers=as_form).status_code == 200
    for half in (r"\ud800", r"a\uDC00b"):
        other = live.client.post("/embed", content=b'{"inputs": "%s"}' % half.encode())
        assert other.status_code == 400 and "half of a character" in other.json()["error"]
    assert live.client.post("/embed", content=rb'{"inputs": "\ud83d\ude00"}').status_code == 200
    other = _post(live, "/models/classifier/embed", {"inputs": "w5"})
    assert "of kind 'classifier'" in other.json()["error"] and "'encoder'" in other.json()["error"]
    assert set(live.client.post("/health").headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_key_is_asked_for_where_there_is_one(serve: Any) -> None:
    live = serve("encoder", api_keys=("secret",), cors_origins=("https://a.example",))
    assert _post(live, "/embed", {"inputs": "w5"}).status_code == 401
    assert _post(live, "/embed", {"inputs": "w5"}, headers={"Authorization": "Bearer wrong"}).status_code == 401
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    before = live.client.options("/embed", headers=asked)
    assert before.status_code == 200 and "authorization" in before.headers["access-control-allow-headers"]
    assert live.client.options("/embed", headers={**asked, "Origin": "https://b.example"}).status_code == 400
    right = {"Authorization": "Bearer secret", "Origin": "https://a.example"}
    answer = _post(live, "/embed", {"inputs": "w5"}, headers=right)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://a.example"
    assert live.client.get("/health").status_code == 200 and live.client.get("/metrics").status_code == 401


def test_a_model_that_cannot_be_opened_leaves_the_others(artifacts: Path, serve: Any, tmp_path: Path) -> None:
    from optimum_serve import ModelSettings

    (artifacts / "broken").mkdir()
    (artifacts / "broken" / "optimum.json").write_text("{}")
    live = serve("encoder", "broken", wait=False)
    assert ModelSettings(source=str(tmp_path / "a" / "b")).label == "b"
    until(lambda: live.client.get("/ready").json()["models"] == {"encoder": "ready", "broken": "failed"})
    assert live.client.get("/ready").status_code == 503
    assert _post(live, "/embed", {"inputs": "w5"}).status_code == 200
    assert _post(live, "/models/broken/embed", {"inputs": "w5"}).status_code == 503


def _changed(artifacts: Path, source: str, name: str, file: str, text: str) -> Path:
    """Return a copy of an artifact in which a file has another content."""
    place = artifacts / name
    shutil.copytree(artifacts / source, place)
    manifest = read(place)
    (place / file).write_text(text)
    for old in ("optimum.json", "README.md"):
        (place / old).unlink()
    write(place, manifest)
    return place


def test_a_model_whose_own_settings_cannot_be_honoured_says_so_at_the_start(artifacts: Path, serve: Any) -> None:
    _changed(artifacts, "writer", "beams", "generation_config.json", '{"num_beams": 4}')
    live = serve("beams", wait=False)
    model = live.app.state.server.models["beams"]
    until(lambda: model.problem)
    assert not model.is_ready
    assert "num_beams" in model.problem
    assert "num_beams" in live.client.get("/status.json").json()["models"][0]["problem"]


def test_prompts_and_dimensions_are_the_models_own_where_none_are_stated(artifacts: Path, serve: Any) -> None:
    settings = {"prompts": {"query": "w5 ", "none": ""}, "default_prompt_name": "query", "truncate_dim": 8}
    place = _changed(artifacts, "encoder", "asks", "config_sentence_transformers.json", json.dumps(settings))
    live = serve("asks")
    with load(place) as model:
        want, bare = (model.encode(["w9", "w7"], prompt_name=name) for name in (None, "none"))
    assert want.shape == (2, 8) and not np.allclose(want, bare)
    unit = want / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(_post(live, "/embed", {"inputs": ["w9", "w7"]}).json(), unit, atol=1e-5)
    raw = _post(live, "/embed", {"inputs": ["w9", "w7"], "normalize": False}).json()
    np.testing.assert_allclose(raw, want, atol=1e-5)
    plain = _post(live, "/embed", {"inputs": ["w9", "w7"], "normalize": False, "prompt_name": "none"}).json()
    np.testing.assert_allclose(plain, bare, atol=1e-5)
    answer = _post(live, "/v1/embeddings", {"input": ["w9", "w7"]}).json()
    np.testing.assert_allclose([item["embedding"] for item in answer["data"]], unit, atol=1e-5)
    assert len(_post(live, "/v1/embeddings", {"input": "w9", "dimensions": 20}).json()["data"][0]["embedding"]) == 20
    live.stop()


def test_a_writer_without_its_tokenizer_is_on_the_page_too(artifacts: Path, serve: Any) -> None:
    place = Path(shutil.copytree(artifacts / "writer", artifacts / "mute"))
    manifest = read(place)
    for old in ("optimum.json", "README.md", "tokenizer.json"):
        (place / old).unlink()
    write(place, manifest)
    live = serve("mute", "writer")
    answer = live.client.get("/status.json")
    assert answer.status_code == 200
    assert {model["name"]: model["chats"] for model in answer.json()["models"]} == {"mute": False, "writer": True}
    live.stop()
