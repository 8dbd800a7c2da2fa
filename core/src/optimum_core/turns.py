"""Searches of one process, one after the other.

Exporters of torch keep their state in global variables: of two exports at once, one fails, or both do. What draws from
the global random numbers or sets the number of threads would disturb the other search as well, and so would timing.

While a search waits for code of the user's, which may itself wait for a search of another thread, it lends its turn.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Seconds that code of the user's takes before its search lends its turn: it may wait for a search of another thread.
LENT_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _RunningSearch:
    """A search that runs.

    Attributes:
        lent_since: when its turn was lent, on the monotonic clock; None: it is not.
    """

    thread: int
    lent_since: float | None = None


class _Turns:
    """The searches that run: the last has the turn, and each before it has lent it to the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[_RunningSearch] = []

    def begin_anew(self) -> None:
        """Forget searches of other threads: in a process that was forked beside them, they never end. Those of this
        thread may not end either, and wait for none."""
        self._changed = threading.Condition()
        self._running = [search for search in self._running if search.thread == threading.get_ident()]
        for search in self._running:
            search.lent_since = -math.inf

    @contextmanager
    def taken(self, on_wait: Callable[[], None]) -> Iterator[bool]:
        """Run a search once it has the turn, and yield whether it waited for another thread."""
        search = _RunningSearch(threading.get_ident())
        if waits := not self._begin(search, wait=False):
            on_wait()
            self._begin(search, wait=True)
        try:
            yield waits
        finally:
            with self._changed:
                self._running.remove(search)
                self._changed.notify_all()

    def _begin(self, search: _RunningSearch, *, wait: bool) -> bool:
        with self._changed:
            while (seconds := self._seconds_to_wait(search)) != 0:
                if not wait:
                    return False
                self._changed.wait(seconds)
            self._running.append(search)
            return True

    def _seconds_to_wait(self, search: _RunningSearch) -> float | None:
        """Return the seconds until a search may take the turn, as things are; None: there is no end in sight."""
        last = self._running[-1] if self._running else search
        if last.thread == search.thread:
            return 0.0
        return None if last.lent_since is None else max(0.0, last.lent_since + LENT_SECONDS - time.monotonic())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let others search while the block runs, if it is of the search that has the turn; then wait for them."""
        with self._changed:
            search = self._running[-1] if self._running else _RunningSearch(0)
            may_lend = search.thread == threading.get_ident() and search.lent_since is None
            if may_lend:
                search.lent_since = time.monotonic()
                self._changed.notify_all()
        try:
            yield
        finally:
            if may_lend:
                with self._changed:
                    search.lent_since = None  # it goes on after the search that it lent its turn to, before all others
                    self._changed.wait_for(lambda: self._running[-1] is search)


_turns = _Turns()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turns.begin_anew)


@contextmanager
def one_at_a_time(on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Run the block while no other thread is in such a block, and yield whether it had to wait.

    Args:
        on_wait: called before waiting for another thread.
    """
    with _turns.taken(on_wait) as waited:
        yield waited


@contextmanager
def turn_lent() -> Iterator[None]:
    """Run code of the user's within a search: if it takes long, it may be waiting for a search of another thread, which
    then goes on. The search of this thread waits until that one is done."""
    with _turns.lent():
        yield
