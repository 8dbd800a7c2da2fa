"""A time limit for Python code that cannot be asked to stop."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from optimum_core.errors import ExportError

_SECONDS, _SECONDS_PER_MB = 120.0, 0.5


class _TooLongError(BaseException):
    """Raised in the thread that took too long; no `Exception`, so that no handler between takes it for its own."""


@contextmanager
def time_limit(seconds: float, who: str, remedy: str) -> Iterator[None]:
    """End the block after this time, at its next step in Python.

    Raises:
        ExportError: it took longer.
    """
    thread, lock, ended = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TooLongError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                ended = True
            timer.cancel()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that was set and not raised yet
    except _TooLongError:
        raise ExportError(who, f"it did not end within {seconds:.0f} s", remedy) from None


def export_limit(module: Any, who: str, remedy: str) -> AbstractContextManager[None]:
    """End the block after the time that an export through `torch.export` may take: the algebra of symbolic lengths
    explodes for some models.

    Raises:
        ExportError: it took longer.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    return time_limit(_SECONDS + _SECONDS_PER_MB * weights / 2**20, who, remedy)
