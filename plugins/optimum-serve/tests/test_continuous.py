"""Texts that are written together: the same as one by one, beside those that take turns."""

from __future__ import annotations

import importlib.util
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from optimum_core import accelerate, load
from optimum_core.measure import Effort, measuring
from optimum_core.types import ScoredPiece
from optimum_serve import ModelSettings
from waiting import leave_within_a_text

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("openvino_genai") is None, reason="openvino-genai is not installed"
)
GENAI = pytest.param("openvino-genai", marks=needs_genai)
STATES = "states of backend 'ort'"


@pytest.fixture(scope="module", params=[GENAI, STATES])
def tool(request: Any) -> str:
    """The tool that writes texts together."""
    return str(request.param)


@pytest.fixture(scope="module")
def made(tool: str, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that writes."""
    if tool == STATES:
        return artifacts / "writer"
    folder = tmp_path_factory.mktemp("together")
    asked: dict[str, Any] = {"target": "openvino", "budget": 0, "shapes": [(1, 8, 4)], "cache_dir": folder / "cache"}
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    with quick, accelerate(artifacts / "sources" / "writer", **asked) as fast:
        fast.save_pretrained(folder / "writer")
    return folder / "writer"


@pytest.fixture
def together(made: Path, serve: Any) -> Iterator[Any]:
    yield serve(ModelSettings(source=str(made), name="writer"), max_running=2, max_batch_items=4)


def _ask(live: Any, prompt: str, **more: Any) -> Any:
    answer = live.client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 10, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_texts_written_together_are_those_of_the_model(together: Any, made: Path, tool: str) -> None:
    settings: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0, "max_tokens": 30},
        {"temperature": 0.8, "seed": 5},  # with openvino-genai, it takes turns beside the group
        {"temperature": 0, "repetition_penalty": 1.3},
    ]
    asked = [(f"a{number}" * (1 + number), settings[number % 4]) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: _ask(together, one[0], **one[1]), asked))
    with load(made) as model:
        for (prompt, stated), answer in zip(asked, answers, strict=True):
            stated = {"max_new_tokens": stated.get("max_tokens", 10), **stated}
            stated.pop("max_tokens", None)
            if stated["temperature"] == 0:
                stated = {**stated, "temperature": None, "do_sample": False}
            assert answer["choices"][0]["text"] == model.generate(prompt, **stated)
            assert answer["usage"]["completion_tokens"] == stated["max_new_tokens"]
    status = together.client.get("/status.json").json()["models"][0]
    assert status["writing"].startswith(f"together, by {tool}")
    figures = together.client.get("/metrics").text
    assert 'optimum_written_tokens_total{model="writer"}' in figures


@pytest.mark.parametrize("tool", [STATES], indirect=True)
def test_all_that_a_text_may_ask_for_is_written_together(together: Any, made: Path) -> None:
    texts = together.app.state.server.models["writer"]._workers.together
    joined: list[Any] = []
    begin = texts.begin

    def noted(*given: Any, **settings: Any) -> Any:
        joined.append(settings)
        return begin(*given, **settings)

    texts.begin = noted
    asked: list[dict[str, Any]] = [
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.8, "seed": 5, "logprobs": 0},
        {"temperature": 0.9, "seed": 6, "min_p": 0.02},
    ]
    alone = [_ask(together, "abc", **one) for one in asked]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: _ask(together, "abc", **one), asked * 2))
    assert len(joined) == 9
    with load(made) as model:
        for stated, *found in zip(asked, alone, answers[:3], answers[3:], strict=True):
            draws = {"do_sample": False} if stated["temperature"] == 0 else {"temperature": stated["temperature"]}
            draws |= {name: stated[name] for name in ("seed", "min_p") if name in stated}
            count = stated.get("logprobs")
            pieces = list(model.generate("abc", stream=True, max_new_tokens=10, logprobs=count, **draws))
            for choice in (answer["choices"][0] for answer in found):
                assert choice["text"] == "".join(pieces)
                if count is not None:
                    scored = [piece for piece in pieces if isinstance(piece, ScoredPiece)]
                    want = [piece.scored.logprob for piece in scored]
                    assert choice["logprobs"]["token_logprobs"] == pytest.approx(want, abs=1e-4)


def test_a_client_that_leaves_frees_its_place(together: Any) -> None:
    leave_within_a_text(together, temperature=0)


@pytest.mark.parametrize("tool", [GENAI], indirect=True)
def test_a_killed_worker_loses_only_what_it_has_begun(together: Any, made: Path) -> None:
    batch = together.app.state.server.models["writer"]._workers.together._batch
    with load(made) as model:
        want = model.generate("ab", max_new_tokens=10, do_sample=False)
    body = {"prompt": "ab", "max_tokens": 120, "stream": True, "temperature": 0}

    def rest_of_one_begun() -> list[str]:
        with together.client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.kill(batch._process._process.pid, signal.SIGKILL)
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: _ask(together, "ab", temperature=0), range(4)))
            assert [answer["choices"][0]["text"] for answer in answers] == [want] * 4
            return list(lines)

    # Another time where the worker was quicker than its end: then its text is whole.
    for _ in range(5):
        rest = rest_of_one_begun()
        if any('"error"' in line for line in rest):
            break
        assert "data: [DONE]" in rest
    else:
        pytest.fail("the worker was quicker five times")


def test_it_can_be_turned_off(made: Path, serve: Any) -> None:
    live = serve(ModelSettings(source=str(made), name="writer"), continuous_batching=False)
    assert live.client.get("/status.json").json()["models"][0]["writing"] == "in turns"
    assert _ask(live, "ab", temperature=0)["choices"][0]["text"]


@pytest.mark.parametrize("tool", [STATES], indirect=True)
def test_a_cache_that_holds_too_little_leaves_turns(made: Path, serve: Any) -> None:
    live = serve(ModelSettings(source=str(made), name="writer"), max_cache=1000)
    assert live.client.get("/status.json").json()["models"][0]["writing"] == "in turns"
    assert _ask(live, "ab", temperature=0)["choices"][0]["text"]


@pytest.mark.parametrize("tool", [STATES], indirect=True)
def test_a_fault_of_any_type_ends_what_is_written_together_and_nothing_else(
    made: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = serve(ModelSettings(source=str(made), name="writer"))
    want = _ask(live, "ab", temperature=0)
    batch = live.app.state.server.models["writer"]._workers.together._batch

    def full(*_arguments: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(batch, "_written", full)
    again = _ask(live, "ab", temperature=0)  # of no piece of it has come: it takes its turn
    assert again["choices"] == want["choices"]
    assert live.client.get("/status.json").json()["models"][0]["writing"] == "in turns"
    assert _ask(live, "ab", temperature=0)["choices"] == want["choices"]
    live.stop()
