"""A time limit for Python code that cannot be asked to stop."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from optimum_core.errors import ExportError
from optimum_core.models.weights import state_tensors

_SECONDS, _SECONDS_PER_MB = 45.0, 0.5
#: Seconds between two looks at the clock, at least.
_LEAST_WAIT = 0.05


class _TimeLimitError(BaseException):
    """Raised in the thread that took too long; no `Exception`, so that no handler between takes it for its own."""


@contextmanager
def time_limit(seconds: float, who: str, remedy: str) -> Iterator[None]:
    """End the block when this thread has used so much CPU time in it, at its next step in Python.

    Where the system does not tell the CPU time of a thread, wall-clock time counts.

    Raises:
        ExportError: it took longer.
    """
    thread, lock, ended = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()
    clock = _thread_clock()
    end = clock() + seconds

    def watch() -> None:
        with suppress(OSError):  # the thread is no more
            while not ended.is_set() and (left := end - clock()) > 0:
                ended.wait(max(left, _LEAST_WAIT))  # on a busy machine the thread has less CPU time than that
        with lock:
            if not ended.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TimeLimitError))

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            # One that was sent and not raised yet is raised in here. It must not be taken back: from then on, CPython
            # 3.11 would look for it at each step, and hang under a profiler.
            with lock:
                ended.set()
    except _TimeLimitError:
        raise ExportError(who, f"it did not end within {seconds:.0f} s of CPU time", remedy) from None


def _thread_clock() -> Callable[[], float]:
    """Return a clock of this thread's CPU time, which other threads may read, or the wall clock."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.perf_counter
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)


def export_limit(module: Any, who: str, remedy: str) -> AbstractContextManager[None]:
    """End the block after the time that an export through `torch.export` may take: the algebra of symbolic lengths
    explodes for some models. It is CPU time, so that a busy machine does not change which candidates compete.

    Raises:
        ExportError: it took longer.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(module).values())
    return time_limit(_SECONDS + _SECONDS_PER_MB * weights / 2**20, who, remedy)
