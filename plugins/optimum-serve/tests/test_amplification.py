"""Small requests that would make much of themselves are refused, before they hold up others or fill the memory."""

from __future__ import annotations

import io
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from optimum_core import accelerate
from optimum_core.measure import Effort, measuring
from optimum_serve import ModelSettings
from requests_by_hand import TENSOR, TEXT, Send
from waiting import until


@pytest.mark.parametrize("documents", ["texts", "documents"])
def test_a_long_question_is_not_read_before_every_text(documents: str, send: Send) -> None:
    body = json.dumps({"query": "w5 " * 100_000, documents: ["w9"] * 1000})
    answer = send("/models/reranker/rerank", body.encode())
    assert answer.status_code == 413 and "300002000 characters" in answer.json()["error"]


def test_many_stops_do_not_hold_up_other_texts(send: Send) -> None:
    for stop in ([f"stop {number}" for number in range(17)], ["a" * 5000]):
        answer = send("/v1/completions", json.dumps({"prompt": "ab", "max_tokens": 2, "stop": stop}).encode())
        assert answer.status_code == 400 and "16 of 4096 characters" in answer.json()["error"]["message"]
    assert send("/v1/completions", TEXT % b'"stop": ["x", "y"]').status_code == 200


def test_many_prompts_are_refused_before_one_is_read(send: Send) -> None:
    answer = send("/v1/completions", json.dumps({"prompt": ["ab"] * 600, "n": 2}).encode())
    assert answer.status_code == 400 and "1200 inputs" in answer.json()["error"]["message"]


def test_a_batch_of_tensors_has_the_limits_of_batches(send: Send) -> None:
    for rows, length, said in ((1025, 2, "1025 inputs"), (300, 60, "18000 tokens")):
        data = b"[%s]" % b",".join([b"5"] * rows * length)
        answer = send("/v2/models/classifier/infer", TENSOR % (b"[%d, %d]" % (rows, length), data))
        assert answer.status_code == 400 and said in answer.json()["error"]


def test_vectors_of_tokens_are_limited_by_the_answer(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_serve.limits._MOST_VALUES", 32 * 6)  # of a width of 32: six tokens
    short, long = (live.client.post("/embed_all", json={"inputs": text}) for text in ("w5 w6 w7 w8", "w5 " * 9))
    assert short.status_code == 200, short.text
    assert long.status_code == 413 and "6 fit into one answer" in long.json()["error"]
    assert live.client.post("/embed", json={"inputs": "w5 " * 9}).status_code == 200


@pytest.mark.parametrize("length", ["\u00b2".encode("latin-1"), b"9" * 5000, b"-1", b"0x10", b""])
def test_a_length_that_is_no_number_is_refused(length: bytes, live: Any) -> None:
    body = TENSOR % (b"[1, 1]", b"[5]")
    headers = {b"Inference-Header-Content-Length": length}
    answer = live.client.post("/v2/models/classifier/infer", content=body, headers=headers)
    assert answer.status_code == 400 and "no number of bytes" in answer.json()["error"]


class Cloud(torch.nn.Module):
    """Sums over points, of which there are as many as one likes: no axis counts rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, points: torch.Tensor, centre: torch.Tensor) -> Any:
        around = points - centre
        return self.layer(around).sum(0), {"reach": around.abs().max()}


def test_a_tensor_whose_first_axis_counts_no_rows_may_be_long(tmp_path: Path, serve: Any) -> None:
    samples = {"points": torch.randn(6, 3), "centre": torch.randn(3)}
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    cloud = Cloud().eval()
    with quick, accelerate(cloud, target="ort", sample_inputs=samples, budget=0, cache_dir=tmp_path) as fast:
        fast.save_pretrained(tmp_path / "cloud")
    live = serve(ModelSettings(source=str(tmp_path / "cloud"), name="cloud"), max_inputs=10, truth_sample=1)
    points = torch.randn(150, 3)
    tensors = [
        {"name": "points", "shape": [150, 3], "datatype": "FP32", "data": points.flatten().tolist()},
        {"name": "centre", "shape": [3], "datatype": "FP32", "data": [0.0] * 3},
    ]
    answer = live.client.post("/v2/models/cloud/infer", json={"inputs": tensors})
    assert answer.status_code == 200, answer.text
    with torch.no_grad():
        total, named = cloud(points, torch.zeros(3))
    found = [output["data"] for output in answer.json()["outputs"]]
    assert found == [pytest.approx(total.tolist(), rel=1e-3, abs=1e-3), pytest.approx([named["reach"].item()])]
    live.stop()


def test_pictures_of_few_bytes_count_as_what_they_are_in_memory(serve: Any) -> None:
    """Until they have been answered: they may wait for long."""
    live = serve("pictures", max_bodies=50_000)
    file = io.BytesIO()
    Image.new("RGB", (200, 200)).save(file, "PNG")
    content = file.getvalue()
    assert len(content) < 1000
    bodies = live.app.state.server.bodies
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as other:
        other.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        until(lambda: bodies.held == 1)
        answer = live.client.post("/predict", content=content)
        assert answer.status_code == 429 and "Retry-After" in answer.headers
    until(lambda: bodies.held == 0)
    assert live.client.post("/predict", content=content).status_code == 200  # one alone may be larger
    until(lambda: bodies.held == 0)
    live.stop()
