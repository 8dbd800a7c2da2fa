"""Hold back what libraries print while they work for us.

It is done at `sys.stdout` and `sys.stderr`, for the calling thread alone: other threads of the program go on printing.
File descriptors are left alone: they are the whole process's, and no exporter, optimizer or quantizer that was tried on
a model that it refuses prints below Python.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.RLock()
_silent: Counter[int] = Counter()


class _Gate:
    """A stream that swallows what silent threads write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.get_ident() in _silent:
            return len(text)
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def silence() -> Iterator[None]:
    """Within, what this thread prints and warns of is dropped. With the logger "optimum_core" at DEBUG, it shows.

    Errors still come as exceptions, with all that is worth knowing.
    """
    if logging.getLogger("optimum_core").isEnabledFor(logging.DEBUG):
        yield
        return
    me = threading.get_ident()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _lock:
            _silent[me] += 1
            # Where another stream was put in place since, it gets a gate of its own.
            before = {name: stream for name in ("stdout", "stderr") if _is_open(stream := getattr(sys, name))}
            gates = {name: _Gate(stream) for name, stream in before.items()}
            for name, gate in gates.items():
                setattr(sys, name, gate)
        try:
            yield
        finally:
            with _lock:
                _silent[me] -= 1
                if not _silent[me]:
                    del _silent[me]
                for name, gate in gates.items():
                    if getattr(sys, name) is gate:
                        setattr(sys, name, before[name])


def _is_open(stream: Any) -> bool:
    """Whether a stream is there to be silenced and has no gate yet."""
    return stream is not None and not isinstance(stream, _Gate)
