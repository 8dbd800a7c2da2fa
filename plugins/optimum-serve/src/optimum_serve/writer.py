"""Several texts at once, each with a state of its own in the backend: one thread takes a token of each in turn.

So each step has all cores, none waits for another's end, and memory is bounded by the number that run at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from optimum_serve.errors import busy
from optimum_serve.tracing import current_trace

#: Begins a text: yields its new piece for each token, which may be empty, and a last one.
Begin = Callable[[], Iterator[str]]


@dataclass(kw_only=True, slots=True, eq=False)
class _Text:
    begin: Begin
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[str | BaseException | None]
    cancelled: bool = False
    running: Iterator[str] | None = None
    since: float = field(default_factory=time.perf_counter)
    count: int = 0

    def put(self, piece: str | BaseException | None) -> None:
        """Hand over a piece, an error, or None at the end."""
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the event loop has ended
            self.cancelled = True


class Writer:
    """Writes texts.

    Args:
        running: texts at once.
        queue: texts that may wait beyond these.
        step: is told the seconds of each step.
    """

    def __init__(self, name: str, *, running: int, queue: int, step: Callable[[float], None]) -> None:
        self._most, self._queue, self._step = running, queue, step
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._running: deque[_Text] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"writer-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """The number of texts that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """The number of texts that are being written."""
        return len(self._running)

    async def write(self, begin: Begin) -> AsyncIterator[str]:
        """Yield the pieces of a text as they come. Closed early, the text ends and its state is freed.

        Args:
            begin: is called in the writer's thread once the text's turn has come.

        Raises:
            RequestError: too many wait already (429).
        """
        text = _Text(begin=begin, loop=asyncio.get_running_loop(), pieces=asyncio.Queue())
        with self._changed:
            if len(self._waiting) >= self._queue:
                raise busy(f"{len(self._waiting)} texts wait already", 2.0 * len(self._waiting))
            self._waiting.append(text)
            self._changed.notify()
        try:
            while (piece := await text.pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            text.cancelled = True
            if (trace := current_trace.get()) is not None:
                trace.add("write", text.since, time.perf_counter(), pieces=text.count)

    def close(self) -> None:
        """Write what has begun or waits, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running and not self._closing:
                    self._changed.wait()
                if not self._waiting and not self._running:
                    return
                while self._waiting and len(self._running) < self._most:
                    self._running.append(self._waiting.popleft())
            text = self._running.popleft()
            if self._advance(text):
                self._running.append(text)

    def _advance(self, text: _Text) -> bool:
        """Write one token of a text; return whether it goes on."""
        start = time.perf_counter()
        try:
            if text.cancelled:
                _end(text)
                return False
            if text.running is None:
                text.running = text.begin()
            text.put(next(text.running))
            text.count += 1
        except StopIteration:
            text.put(None)
            return False
        except Exception as error:  # noqa: BLE001 - any error goes to the client
            text.put(error)
            return False
        self._step(time.perf_counter() - start)
        return True


def _end(text: _Text) -> None:
    """Free the state of a cancelled text."""
    close = getattr(text.running, "close", None)
    if close is not None:
        close()
