"""Handling of SIGTERM, as sent by batch systems and containers, and of SIGHUP, as sent by a terminal that closes.

The stack is unwound, so that no directory stays behind: by default Python ends the process at once, and
`with TemporaryDirectory()` then removes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds after a signal from which another one no longer waits for the stack to unwind.
GRACE = 5.0


#: Those that unwind; Windows has no SIGHUP.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM and SIGHUP. Handled wherever Ctrl-C is, but not by code that catches `Exception` to continue.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def unwound_on_termination() -> Iterator[None]:
    """Let the signals unwind the stack within this context, then end the process as they would have otherwise.

    Only in the main thread, and if the process has no handler of its own for SIGTERM: such a handler takes precedence,
    and unwinds by raising (`sys.exit`). A SIGHUP that is handled or ignored (`nohup`) remains so.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    taken = _unhandled()
    raise_on_termination()
    try:
        yield
    except Terminated as error:
        _end(error.number)
        raise
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def raise_on_termination() -> Callable[[], int | None]:
    """Make the signals raise `Terminated` once; further ones during the unwinding are ignored for `GRACE` seconds.

    A later one ends the process at once: the exception may be lost, as in a finalizer or a library that catches all.

    Returns:
        A function that returns the number of the signal that was received; None: none was.
    """
    owner, came, taken = os.getpid(), list[int](), _unhandled()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child, whose stack to unwind belongs to its parent
            _end(number)
        first = time.monotonic()
        for one in taken:
            signal.signal(one, lambda later, _: _end(later) if time.monotonic() - first > GRACE else None)
        came.append(number)
        raise Terminated(number)

    for number in taken:
        signal.signal(number, handle)
    return lambda: came[0] if came else None


def _unhandled() -> list[int]:
    return [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]


def _end(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
