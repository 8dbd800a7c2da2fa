"""Handling of SIGTERM, as sent by batch systems and containers: unwind the stack, so that no directory stays behind.

By default Python ends the process at once, and `with TemporaryDirectory()` then removes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds after a SIGTERM from which another one no longer waits for the stack to unwind.
GRACE = 5.0


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM. Handled wherever Ctrl-C is, but not by code that catches `Exception` to continue."""


@contextmanager
def unwound_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack within this context, then end the process as it would have otherwise.

    Only in the main thread, and if the process has no handler of its own: such a handler takes precedence, and unwinds
    by raising (`sys.exit`).
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    raise_on_sigterm()
    try:
        yield
    except Terminated:
        _end()
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def raise_on_sigterm() -> Callable[[], bool]:
    """Make SIGTERM raise `Terminated` once; further signals during the unwinding are ignored for `GRACE` seconds.

    A later one ends the process at once: the exception may be lost, as in a finalizer or a library that catches all.

    Returns:
        A function that returns whether the signal was received.
    """
    owner, came = os.getpid(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child, whose stack to unwind belongs to its parent
            _end()
        first = time.monotonic()
        signal.signal(signal.SIGTERM, lambda *_: _end() if time.monotonic() - first > GRACE else None)
        came.set()
        raise Terminated

    signal.signal(signal.SIGTERM, handle)
    return came.is_set


def _end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
