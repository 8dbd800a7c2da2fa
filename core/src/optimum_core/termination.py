"""SIGTERM, as a batch system or a container sends it: the work is unwound, so that no directory of ours stays behind.

Python's default for it ends the process at once, and `with TemporaryDirectory()` removes nothing then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Handled wherever Ctrl-C is, and not by what catches exceptions in order to go on."""


@contextmanager
def unwound_on_sigterm() -> Iterator[None]:
    """While inside, SIGTERM unwinds the stack, and then ends the process as it would have without us.

    Only in the main thread, and where the process has no handler of its own: that one decides, and unwinds by raising
    (`sys.exit`).
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
    """Have SIGTERM raise `Terminated`, once: what comes during the unwinding is ignored.

    Returns:
        What tells whether it came.
    """
    owner, came = os.getpid(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child that was forked: what it would unwind is its parent's
            _end()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        came.set()
        raise Terminated

    signal.signal(signal.SIGTERM, handle)
    return came.is_set


def _end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
