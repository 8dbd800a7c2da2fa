"""Searches of one process, one after the other.

Exporters of torch keep their state in global variables: of two exports at once, one fails, or both do. What draws from
the global random numbers or sets the number of threads would disturb the other search as well, and so would timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: An evaluator of the user may accelerate another model meanwhile, in the same thread.
_LOCK = threading.RLock()


@contextmanager
def one_at_a_time(on_wait: Callable[[], None]) -> Iterator[bool]:
    """Run the block while no other thread is in such a block, and yield whether it had to wait.

    Args:
        on_wait: called before waiting for another thread.
    """
    waits = not _LOCK.acquire(blocking=False)
    if waits:
        on_wait()
        _LOCK.acquire()
    try:
        yield waits
    finally:
        _LOCK.release()
