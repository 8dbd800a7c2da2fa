"""Running of `child.py` in a new process, where a crash is distinguished from an error."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("child.py")
_SECONDS = 300


def in_new_process(task: str, *arguments: object) -> Any:
    """Return the result of a task of `child.py`, run with this process's module search path.

    Raises:
        AssertionError: the process crashed, hung or raised; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.pickle"), Path(folder, "answer.pickle")
        request.write_bytes(pickle.dumps(arguments))
        command = [sys.executable, "-P", str(_CHILD), task, str(request), str(answer)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{task}: the process did not end within {_SECONDS} s") from error
        said = done.stderr.strip()[-2000:]
        # A negative code is the signal that ended it; on Windows a crash is a large positive code.
        crashed = done.returncode < 0 or done.returncode > 255
        assert not crashed, f"{task}: the process crashed (code {done.returncode})\n{said}"
        assert done.returncode == 0, f"{task}: the process failed\n{said}"
        return pickle.loads(answer.read_bytes())
