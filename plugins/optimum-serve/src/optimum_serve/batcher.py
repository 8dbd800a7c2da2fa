"""Batches of what waits: all that came while the model was busy is the next batch. There is no timer.

The oldest input is always in the next batch, so that none waits for ever; those nearest to it in length join it, so
that little is computed on padding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optimum_serve.consumers import Consumers
from optimum_serve.errors import busy
from optimum_serve.tracing import current_trace

#: Runs a batch: inputs in, an answer for each out.
Run = Callable[[list[Any]], Sequence[Any]]


class Observer(Protocol):
    """Receiver of the figures of each batch."""

    def batch(self, size: int, waited: float, took: float, tokens: int, padded: int) -> None:
        """Take note of one batch: its inputs, the longest wait, its time, its tokens without and with padding."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The greatest batch, in inputs and in tokens with padding, and the greatest number of inputs that wait."""

    items: int
    tokens: int
    queue: int


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    """The inputs of one request, of which some may be in one batch and some in another.

    Attributes:
        began, ended: times of its first and its last batch.
    """

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    answers: list[Any]
    missing: int
    since: float = field(default_factory=time.perf_counter)
    began: float = 0.0
    ended: float = 0.0

    def finish(self, error: BaseException | None = None) -> None:
        """Hand over the answers, or the error; in the event loop."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.answers)


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    request: _Request
    place: int
    item: Any
    length: int


class Batcher:
    """Runs inputs of many requests in batches, in threads of its own.

    Args:
        run: is called in these threads.
        threads: batches that run side by side.
        observer: is told of each batch.
    """

    def __init__(self, name: str, run: Run, limits: Limits, observer: Observer, threads: int = 1) -> None:
        self._run = run
        self._limits = limits
        self._observer = observer
        self._waiting: list[_Waiting] = []
        self._pace = 0.0  # seconds an input, smoothed
        self._consumers = Consumers(
            [f"batcher-{name}-{number}" for number in range(threads)],
            lambda: bool(self._waiting), self._next, self._answer,
        )  # fmt: skip

    @property
    def depth(self) -> int:
        """The number of inputs that wait."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
        """Return the answers to inputs, in order. When cancelled, inputs that still wait are dropped.

        Args:
            lengths: of the inputs, in tokens.

        Raises:
            RequestError: too many wait already (429).
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        request = _Request(loop=loop, future=loop.create_future(), answers=[None] * len(items), missing=len(items))
        waiting = [
            _Waiting(request=request, place=place, item=item, length=length)
            for place, (item, length) in enumerate(zip(items, lengths, strict=True))
        ]
        with self._consumers.changed:
            if len(self._waiting) and len(self._waiting) + len(items) > self._limits.queue:
                raise busy(f"{len(self._waiting)} inputs wait already", self._pace * len(self._waiting))
            self._waiting += waiting
            self._consumers.changed.notify()
        answers = await request.future
        if (trace := current_trace.get()) is not None:
            trace.add("queue", request.since, request.began)
            trace.add("model", request.began, request.ended, inputs=len(items), tokens=sum(lengths))
        return answers

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        self._consumers.close()

    def _next(self) -> list[_Waiting]:
        """Take the next batch from what waits."""
        self._waiting = [one for one in self._waiting if not one.request.future.cancelled()]
        if not self._waiting:
            return []
        oldest, rest = self._waiting[0], self._waiting[1:]
        batch, longest = [oldest], oldest.length
        for one in sorted(rest, key=lambda one: abs(one.length - oldest.length)):
            grown = max(longest, one.length)
            if len(batch) == self._limits.items or grown * (len(batch) + 1) > self._limits.tokens:
                break
            batch.append(one)
            longest = grown
        taken = {id(one) for one in batch}
        self._waiting = [one for one in rest if id(one) not in taken]
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        start = time.perf_counter()
        error: BaseException | None = None
        answers: Sequence[Any] = ()
        try:
            answers = self._run([one.item for one in batch])
        except Exception as caught:  # noqa: BLE001 - whatever it is goes to those who asked
            if len({id(one.request) for one in batch}) > 1:
                self._answer_apart(batch)
                return
            error = caught
        took = time.perf_counter() - start
        self._pace = took / len(batch) if not self._pace else 0.9 * self._pace + 0.1 * took / len(batch)
        tokens = sum(one.length for one in batch)
        padded = len(batch) * max(one.length for one in batch)
        self._observer.batch(len(batch), start - batch[0].request.since, took, tokens, padded)
        done: list[_Request] = []
        with self._consumers.changed:
            for number, one in enumerate(batch):
                request = one.request
                request.began, request.ended = request.began or start, start + took
                request.missing -= 1
                if error is None:
                    request.answers[one.place] = answers[number]
                if request.missing == 0 or error is not None:
                    done.append(request)
        if done:
            _tell(done, error)

    def _answer_apart(self, batch: list[_Waiting]) -> None:
        """Run each request of a batch alone, so that the inputs of one make no other fail."""
        for request in {id(one.request): one.request for one in batch}.values():
            self._answer([one for one in batch if one.request is request])


def _tell(requests: Sequence[_Request], error: BaseException | None) -> None:
    def finish() -> None:
        for request in requests:
            request.finish(error)

    try:
        requests[0].loop.call_soon_threadsafe(finish)
    except RuntimeError:  # the event loop has ended
        return
