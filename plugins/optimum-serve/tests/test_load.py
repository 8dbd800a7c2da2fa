"""The server under many requests, and at its end: every accepted request is answered, and none twice."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from optimum_core import load
from waiting import leave_within_a_text


def _post(live: Any, path: str, body: Any, **more: Any) -> httpx.Response:
    return live.client.post(path, json=body, **more)  # type: ignore[no-any-return]


def _slowed(live: Any, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Let every batch of the encoder take its time, and note its size."""
    model, sizes = live.app.state.server.models["encoder"], []
    batcher = model._workers.batcher
    run = batcher._run

    def slow(batch: list[Any]) -> Any:
        sizes.append(len(batch))
        time.sleep(seconds)
        return run(batch)

    monkeypatch.setattr(batcher, "_run", slow)
    return sizes


def test_what_waits_is_one_batch_and_all_get_their_own_answers(
    serve: Any, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = serve("encoder")
    sizes = _slowed(live, monkeypatch, 0.2)
    texts = [f"w{4 + n % 90} w{10 + n % 7}" for n in range(24)]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda text: _post(live, "/embed", {"inputs": text}).json()[0], texts))
    np.testing.assert_allclose(found, load(artifacts / "encoder").encode(texts), atol=1e-5)
    assert sum(sizes) == 24 and len(sizes) < 8


def test_beyond_its_queue_requests_are_told_when_to_come_again(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", max_queue=4, max_batch_items=1)
    _slowed(live, monkeypatch, 0.1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: _post(live, "/embed", {"inputs": "w5"}), range(16)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 4
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_a_deadline_and_a_client_that_leaves_free_their_places(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", timeout=0.5, max_batch_items=1)
    sizes = _slowed(live, monkeypatch, 0.3)
    with ThreadPoolExecutor(6) as pool:
        statuses = [one.status_code for one in pool.map(lambda _: _post(live, "/embed", {"inputs": "w5"}), range(6))]
    assert set(statuses) == {200, 504} and len(sizes) <= 4  # an answer that no client waits for is not computed
    with pytest.raises(httpx.ReadTimeout):
        _post(live, "/embed", {"inputs": "w5"}, timeout=0.05)
    time.sleep(0.5)
    assert live.app.state.server.models["encoder"].depth == 0


def test_a_text_ends_where_its_client_leaves(serve: Any) -> None:
    leave_within_a_text(serve("writer", max_running=2), temperature=1.0)


def test_several_texts_are_written_in_turns(live: Any, artifacts: Path) -> None:
    prompts = [f"a{n}" for n in range(9)]
    body = {"max_tokens": 10, "temperature": 0}
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda text: _post(live, "/v1/completions", {"prompt": text, **body}).json(), prompts))
    model = load(artifacts / "writer")
    want = [model.generate(text, max_new_tokens=10, do_sample=False) for text in prompts]
    assert [answer["choices"][0]["text"] for answer in answers] == want


def test_told_to_stop_it_answers_what_it_has_taken(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", max_batch_items=1)
    _slowed(live, monkeypatch, 0.1)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(httpx.post(f"{live.url}/embed", json={"inputs": "w5"}).status_code)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    model = live.app.state.server.models["encoder"]
    while model.depth + len(answers) < 7:  # and one is being answered
        time.sleep(0.01)
    live.stop()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_inputs_that_fail_make_no_other_request_fail() -> None:
    from optimum_serve.batcher import Batcher, Limits
    from optimum_serve.metrics import Metrics

    release, sizes = threading.Event(), list[int]()

    def run(batch: list[int]) -> list[int]:
        release.wait(10)
        sizes.append(len(batch))
        if min(batch) < 0:
            raise ValueError("below zero")
        return batch

    async def scene() -> list[Any]:
        batcher = Batcher("m", run, Limits(items=8, tokens=100, queue=10), Metrics().of("m"))
        asked = [
            asyncio.create_task(batcher.submit(numbers, [1] * len(numbers))) for numbers in ([0], [1, 2], [-1], [3])
        ]
        await asyncio.sleep(0.1)
        release.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return found

    found = asyncio.run(scene())
    assert isinstance(found.pop(2), ValueError) and found == [[0], [1, 2], [3]]
    assert max(sizes) >= 4  # it was in a batch with others


def test_cancelled_inputs_are_not_run() -> None:
    from optimum_serve.batcher import Batcher, Limits
    from optimum_serve.metrics import Metrics

    ran: list[int] = []
    release = threading.Event()

    def run(batch: list[int]) -> list[int]:
        release.wait(10)
        ran.extend(batch)
        return batch

    async def scene() -> None:
        batcher = Batcher("m", run, Limits(items=1, tokens=100, queue=10), Metrics().of("m"))
        one, two, three = (asyncio.create_task(batcher.submit([number], [1])) for number in (1, 2, 3))
        await asyncio.sleep(0.1)
        two.cancel()
        release.set()
        assert await one == [1] and await three == [3]
        await asyncio.to_thread(batcher.close)

    asyncio.run(scene())
    assert ran == [1, 3]
