"""Suppression of libraries' output while they run.

It acts on `sys.stdout` and `sys.stderr`, for the calling thread alone: other threads of the program go on printing.
File descriptors are not redirected, since they belong to the whole process: what native code prints is shown.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

_lock = threading.RLock()
_silent: Counter[int] = Counter()
_STREAMS = ("stdout", "stderr")


class _Gate:
    """A stream that drops the output of silent threads."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if threading.get_ident() in _silent:
            return len(text)
        written: int = self.stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def silence(*libraries: str) -> Iterator[None]:
    """Drop this thread's prints and warnings while the block runs; with the logger "optimum_core" at DEBUG, show them.

    Errors are still raised, with all relevant details.

    Args:
        libraries: top-level packages whose loggers are mute meanwhile, in all threads. Loggers of their modules that
            are created within the block are not.
    """
    if logging.getLogger("optimum_core").isEnabledFor(logging.DEBUG):
        yield
        return
    me = threading.get_ident()
    with warnings.catch_warnings(), muted(*libraries):
        warnings.simplefilter("ignore")
        with _lock:
            _silent[me] += 1
            for name in _STREAMS:
                stream = getattr(sys, name)
                if stream is not None and not isinstance(stream, _Gate):
                    setattr(sys, name, _Gate(stream))
        try:
            yield
        finally:
            with _lock:
                _silent[me] -= 1
                if not _silent[me]:
                    del _silent[me]
                if not _silent:  # all silent threads share the gates: the last thread removes them
                    for name in _STREAMS:
                        stream = getattr(sys, name)
                        if isinstance(stream, _Gate):
                            setattr(sys, name, stream.stream)


def torch_muted() -> AbstractContextManager[None]:
    """Mute the loggers of torch while a block runs."""
    return muted("torch")


@contextmanager
def muted(*libraries: str) -> Iterator[None]:
    """Mute the loggers of top-level packages, in all threads, while the block runs; with the logger "optimum_core" at
    DEBUG, leave them."""
    if logging.getLogger("optimum_core").isEnabledFor(logging.DEBUG):
        yield
        return
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in libraries]
    loggers = [logging.getLogger(name) for name in {*known, *libraries}]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
