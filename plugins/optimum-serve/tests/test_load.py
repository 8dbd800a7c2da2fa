"""The server under many requests, and at its end: every accepted request is answered, and none twice."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from optimum_core import load
from waiting import leave_within_a_text, until


def _post(live: Any, path: str, body: Any, **more: Any) -> httpx.Response:
    return live.client.post(path, json=body, **more)  # type: ignore[no-any-return]


class Held:
    """Holds back the batches of the encoder until it is told to let them go.

    Attributes:
        sizes: of the batches that were begun.
        go: lets the batches go.
    """

    def __init__(self, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._model = live.app.state.server.models["encoder"]
        self.sizes: list[int] = []
        self.go = threading.Event()
        self._batcher = batcher = self._model._workers.batcher
        run = batcher._run

        def held(batch: list[Any]) -> Any:
            self.sizes.append(len(batch))
            assert self.go.wait(240)
            return run(batch)

        monkeypatch.setattr(batcher, "_run", held)

    @property
    def is_left(self) -> bool:
        """Whether no client waits for the inputs that wait."""
        return all(one.request.future.cancelled() for one in self._batcher._waiting)

    def until_taken(self, number: int) -> None:
        """Wait until so many inputs were taken: one is in a batch, the others wait."""
        until(lambda: self.sizes and sum(self.sizes) + self._model.depth >= number)


def test_what_waits_is_one_batch_and_all_get_their_own_answers(
    serve: Any, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = serve("encoder")
    held = Held(live, monkeypatch)
    texts = [f"w{4 + n % 90} w{10 + n % 7}" for n in range(24)]
    with ThreadPoolExecutor(24) as pool:
        asked = pool.map(lambda text: _post(live, "/embed", {"inputs": text}).json()[0], texts)
        held.until_taken(24)
        held.go.set()
        found = list(asked)
    np.testing.assert_allclose(found, load(artifacts / "encoder").encode(texts), atol=1e-5)
    assert sum(held.sizes) == 24 and len(held.sizes) <= 2


def test_beyond_its_queue_requests_are_told_when_to_come_again(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", max_queue=4, max_batch_items=1)
    held = Held(live, monkeypatch)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(_post, live, "/embed", {"inputs": "w5"})]
        held.until_taken(1)
        asked += [pool.submit(_post, live, "/embed", {"inputs": "w5"}) for _ in range(15)]
        until(lambda: sum(one.done() for one in asked) == 11)
        held.go.set()
        answers = [one.result() for one in asked]
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (5, 11)  # one that is computed, and four that wait
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_a_deadline_and_a_client_that_leaves_free_their_places(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", timeout=0.5, max_batch_items=1)
    held = Held(live, monkeypatch)
    with ThreadPoolExecutor(6) as pool:
        statuses = [one.status_code for one in pool.map(lambda _: _post(live, "/embed", {"inputs": "w5"}), range(6))]
    assert statuses == [504] * 6
    with pytest.raises(httpx.TimeoutException):
        _post(live, "/embed", {"inputs": "w5"}, timeout=0.05)
    until(lambda: held.is_left)
    held.go.set()
    until(lambda: live.app.state.server.models["encoder"].depth == 0)
    assert len(held.sizes) == 1  # an answer that no client waits for is not computed
    until(lambda: _post(live, "/embed", {"inputs": "w5"}).status_code == 200)


def test_a_text_ends_where_its_client_leaves(serve: Any) -> None:
    leave_within_a_text(serve("writer", max_running=2), temperature=1.0)


def test_several_texts_are_written_in_turns(serve: Any, artifacts: Path) -> None:
    live = serve("writer", continuous_batching=False)
    prompts = [f"a{n}" for n in range(9)]
    body = {"max_tokens": 10, "temperature": 0}
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda text: _post(live, "/v1/completions", {"prompt": text, **body}).json(), prompts))
    model = load(artifacts / "writer")
    want = [model.generate(text, max_new_tokens=10, do_sample=False) for text in prompts]
    assert [answer["choices"][0]["text"] for answer in answers] == want


def test_told_to_stop_it_answers_what_it_has_taken(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve("encoder", max_batch_items=1)
    held = Held(live, monkeypatch)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{live.url}/embed", json={"inputs": "w5"}, timeout=240).status_code
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    held.until_taken(8)
    live.told_to_stop()
    held.go.set()
    live.stop()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_inputs_that_fail_make_no_other_request_fail() -> None:
    from optimum_serve.batcher import Batcher, Limits
    from optimum_serve.metrics import Metrics

    release, sizes = threading.Event(), list[int]()

    def run(batch: list[int]) -> list[int]:
        release.wait(60)
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
        release.wait(60)
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
