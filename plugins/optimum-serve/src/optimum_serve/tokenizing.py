"""Tokenizing outside of the event loop: texts of many requests that came while the threads were busy, in one call.

A call of the tokenizer, and the way to another thread and back, cost more than the tokens of a short text.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optimum_core import AcceleratedModel
from optimum_core.errors import OptimumError
from optimum_core.types import Cut
from optimum_serve.consumers import Consumers

Item = Mapping[str, Any]
#: The side on which texts are cut.
Side = Literal["left", "right"]
#: Characters beyond which a call takes no further request, so that a long text holds up few others.
_CHARACTERS = 50_000


def frame_of(model: AcceleratedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a model's tokenizer puts before and behind every text; none where there is no tokenizer."""
    try:
        bare, one = ([int(number) for number in item["input_ids"]] for item in model.tokenize(["", "a"]))
    except OptimumError:
        return (), ()
    begin = next((n for n, pair in enumerate(zip(bare, one, strict=False)) if len(set(pair)) > 1), len(bare))
    return tuple(bare[:begin]), tuple(bare[begin:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """The way to tokenize: `tokenize` takes texts and returns their inputs; requests with equal manners share calls."""

    tokenize: Callable[[Sequence[Any], str, Cut], Sequence[Item]]
    prompt: str
    truncate: Cut

    def __call__(self, texts: Sequence[Any]) -> Sequence[Item]:
        """Return the inputs of every text."""
        return self.tokenize(texts, self.prompt, self.truncate)


@dataclass(kw_only=True, slots=True, eq=False)
class _Job:
    texts: Sequence[Any]
    manner: Manner
    size: int
    future: asyncio.Future[Sequence[Item]]
    items: Sequence[Item] = ()
    error: BaseException | None = None

    def is_like(self, other: _Job) -> bool:
        """Whether one call does for both: texts and pairs of texts do not mix."""
        return self.manner == other.manner and type(self.texts[0]) is type(other.texts[0])

    def finish(self) -> None:
        """Hand over the inputs, or the error; in the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.items)


class Tokenizing:
    """Threads that tokenize.

    Args:
        threads: their number.
    """

    def __init__(self, threads: int) -> None:
        self._waiting: deque[_Job] = deque()
        self._consumers = Consumers(
            [f"tokenizing-{number}" for number in range(threads)],
            lambda: bool(self._waiting), self._next, _answer,
        )  # fmt: skip

    async def inputs(self, texts: Sequence[Any], manner: Manner) -> Sequence[Item]:
        """Return the inputs of texts, or of pairs of texts.

        Raises:
            Exception: that of the tokenizer, for these texts.
        """
        if not texts:
            return []
        loop = asyncio.get_running_loop()
        size = sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts)
        job = _Job(texts=texts, manner=manner, size=size, future=loop.create_future())
        with self._consumers.changed:
            self._waiting.append(job)
            self._consumers.changed.notify()
        return await job.future

    def close(self) -> None:
        """Tokenize what waits, then end the threads."""
        self._consumers.close()

    def _next(self) -> list[_Job]:
        """Take the oldest request, and those behind it in the same manner while the call is short."""
        first = self._waiting.popleft()
        jobs, size = [first], first.size
        while self._waiting and self._waiting[0].is_like(first):
            size += self._waiting[0].size
            if size > _CHARACTERS:
                break
            jobs.append(self._waiting.popleft())
        return [job for job in jobs if not job.future.cancelled()]


def _answer(jobs: Sequence[_Job]) -> None:
    _tokenize(jobs)
    _tell(jobs)


def _tokenize(jobs: Sequence[_Job]) -> None:
    try:
        items = jobs[0].manner([text for job in jobs for text in job.texts])
    except Exception as error:  # noqa: BLE001 - any error goes to the request that it belongs to
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:
            _tokenize([job])
        return
    place = 0
    for job in jobs:
        job.items = items[place : place + len(job.texts)]
        place += len(job.texts)


def _tell(jobs: Sequence[_Job]) -> None:
    def finish() -> None:
        for job in jobs:
            job.finish()

    try:
        jobs[0].future.get_loop().call_soon_threadsafe(finish)
    except RuntimeError:  # the event loop has ended
        return
