"""Searches of one process, one after the other.

Exporters of torch keep their state in global variables: of two exports at once, one fails, or both do. What draws from
the global random numbers or sets the number of threads would disturb the other search as well, and so would timing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: An evaluator of the user may accelerate another model meanwhile, in the same thread.
_lock = threading.RLock()


def _begin_anew() -> None:
    """Forget a search of another thread: in a process that was forked beside it, it never ends."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def one_at_a_time(on_wait: Callable[[], None]) -> Iterator[bool]:
    """Run the block while no other thread is in such a block, and yield whether it had to wait.

    Args:
        on_wait: called before waiting for another thread.
    """
    lock = _lock
    waits = not lock.acquire(blocking=False)
    if waits:
        on_wait()
        lock.acquire()
    try:
        yield waits
    finally:
        lock.release()
