"""Several texts at once, each with a state of its own in the backend: one thread takes a token of each in turn.

So each step has all cores, none waits for another's end, and memory is bounded by the number that run at once. Where
the backend batches continuously, the texts that it takes are a group, which has a turn like any other text.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from optimum_serve.errors import busy
from optimum_serve.group import Group, Written
from optimum_serve.tracing import current_trace

#: Begins a text: yields its new piece for each token, which may be empty, and a last one.
Begin = Callable[[], Iterator[str]]
#: Begins a text in the group.
Join = Callable[[], Written]


@dataclass(kw_only=True, slots=True, eq=False)
class _Text:
    begin: Begin
    join: Join | None
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[str | BaseException | None]
    cancelled: bool = False
    begun: bool = False
    running: Iterator[str] | None = None
    since: float = field(default_factory=time.perf_counter)
    count: int = 0

    def put(self, piece: str | BaseException | None) -> None:
        """Hand over a piece, an error, or None at the end."""
        self.begun = True
        self.count += isinstance(piece, str)
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:  # the event loop has ended
            self.cancelled = True


class Writer:
    """Writes texts.

    Args:
        running: texts at once, beside those of the group.
        queue: texts that may wait beyond these.
        step: is told the seconds of each step.
        group: texts that are written together; None: the backend does not batch them.
    """

    def __init__(
        self, name: str, *, running: int, queue: int, step: Callable[[float], None], group: Group[_Text] | None = None
    ) -> None:
        self._most, self._queue, self._step, self._group = running, queue, step, group
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._running: deque[_Text | Group[_Text]] = deque()
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
        return self._alone() + len(self._group or ())

    @property
    def is_together(self) -> bool:
        """Whether texts are written together: the backend can, and has not failed at it."""
        return self._group is not None and not self._group.is_broken

    def _alone(self) -> int:
        return sum(isinstance(turn, _Text) for turn in tuple(self._running))

    async def write(self, begin: Begin, join: Join | None = None) -> AsyncIterator[str]:
        """Yield the pieces of a text as they come. Closed early, the text ends and its state is freed.

        Args:
            begin: is called in the writer's thread once the text's turn has come.
            join: begins it in the group instead; None: the group does not take it.

        Raises:
            RequestError: too many wait already (429).
        """
        text = _Text(begin=begin, join=join, loop=asyncio.get_running_loop(), pieces=asyncio.Queue())
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
        if self._group is not None:
            self._group.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._running and not self._closing:
                    self._changed.wait()
                if not self._waiting and not self._running:
                    return
                joining = self._admitted()
            self._join(joining)
            if self._running:
                self._take_turn()

    def _admitted(self) -> list[_Text]:
        """Let those that wait begin, in order, each where there is room for it; return those that join the group."""
        joining: list[_Text] = []
        kept: deque[_Text] = deque()
        places = self._group.places if self._group is not None else 0
        for text in self._waiting:
            joins = text.join is not None and self._group is not None and not self._group.is_broken
            if joins and len(joining) < places:
                joining.append(text)
            elif not joins and self._alone() < self._most:
                self._running.append(text)
            elif not text.cancelled:
                kept.append(text)
        self._waiting = kept
        return joining

    def _join(self, joining: Iterable[_Text]) -> None:
        """Begin texts in the group: outside of the lock, as prompts are tokenized there."""
        for text in joining:
            assert self._group is not None
            self._group.join(text)
            if len(self._group) and self._group not in self._running:
                self._running.append(self._group)
        self._take_back()

    def _take_turn(self) -> None:
        turn = self._running.popleft()
        if turn.advance() if isinstance(turn, Group) else self._advance(turn):
            self._running.append(turn)
        self._take_back()

    def _take_back(self) -> None:
        """Let those that the group has released wait again: they take turns."""
        if self._group is not None and self._group.released:
            with self._changed:
                self._waiting.extendleft(self._group.released)
            self._group.released = []

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
