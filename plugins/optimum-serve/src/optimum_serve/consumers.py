"""Threads that take work from what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Consumers(Generic[T]):
    """Threads that begin at once and end once they are closed and nothing waits.

    Args:
        names: of the threads, which tells their number.
        waiting: whether work waits; called with `changed` held.
        take: takes the next piece of work, which may be empty; called with `changed` held.
        work: does it.

    Attributes:
        changed: guards what waits; to be notified of what is added.
    """

    def __init__(
        self,
        names: Sequence[str],
        waiting: Callable[[], bool],
        take: Callable[[], list[T]],
        work: Callable[[list[T]], None],
    ) -> None:
        self.changed = threading.Condition()
        self._waiting, self._take, self._work = waiting, take, work
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Do what waits, then end the threads."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self._waiting() and not self._closing:
                    self.changed.wait()
                if not self._waiting():
                    return
                taken = self._take()
            if taken:
                self._work(taken)
