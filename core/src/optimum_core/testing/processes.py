"""Running of `child.py` in another process, where a crash is distinguished from an error."""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("child.py")
_SECONDS = 300
_POLL = 0.005


def in_new_process(task: str, *arguments: object) -> Any:
    """Return the result of a task of `child.py`, run in a process of its own.

    Raises:
        AssertionError: the process crashed, hung or raised; the message holds the end of its output.
    """
    child = _Child()
    try:
        return child.ask(task, *arguments)
    finally:
        child.stop()


def in_other_process(task: str, *arguments: object) -> Any:
    """Return the result of a task of `child.py`, run in a process that is kept for the next one, until one crashes it.

    Raises:
        AssertionError: as `in_new_process`.
    """
    if not _kept().runs():
        _kept.cache_clear()
    return _kept().ask(task, *arguments)


class _Child:
    """A process that runs tasks one after another, with this process's module search path."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="optimum-child-", ignore_cleanup_errors=True)
        self._errors = Path(self._folder.name, "stderr")
        self._numbers = count()
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
            )

    def runs(self) -> bool:
        """Whether it can take another task."""
        return self._process.poll() is None

    def ask(self, task: str, *arguments: object) -> Any:
        """Return a task's result, or raise `AssertionError`."""
        request, answer = (Path(self._folder.name, f"{next(self._numbers)}.{part}") for part in ("request", "answer"))
        request.write_bytes(pickle.dumps(arguments))
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\t{request}\t{answer}\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + _SECONDS
        while not answer.exists():
            code = self._process.poll()
            assert code is None or answer.exists(), f"{task}: the process crashed (code {code})\n{self._said()}"
            if time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{task}: the process did not end within {_SECONDS} s")
            time.sleep(_POLL)
        worked, result = pickle.loads(answer.read_bytes())
        assert worked, f"{task}: the process failed\n{result}"
        return result

    def stop(self) -> None:
        """End the process and remove its files."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _said(self) -> str:
        return self._errors.read_text(errors="replace").strip()[-2000:]


@cache
def _kept() -> _Child:
    child = _Child()
    atexit.register(child.stop)
    return child
