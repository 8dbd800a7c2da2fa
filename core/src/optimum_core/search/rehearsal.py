"""Runs of a risky candidate in a child process, so that a crash of its runtime ends the child and not the caller.

An export that took one side of a branch on values has constants of one call in its graph. At other shapes a runtime may
read beyond them: OpenVINO was seen to end the process by SIGSEGV. To start a child takes a second or two, so only such
candidates are rehearsed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.errors import SessionError, ended
from optimum_core.types import SessionRequest

_SECONDS = 120


def rehearse(request: SessionRequest, calls: Sequence[Mapping[str, Any]]) -> None:
    """Open a session in a child process and run it on these inputs; its outputs and errors are of no interest.

    Raises:
        SessionError: a signal ended the child, or it did not end in time.
    """
    who = f"backend {request.backend!r}, {request.artifact.main_file}"
    with TemporaryDirectory(prefix="optimum-") as folder:
        asked = Path(folder, "calls.pickle")
        asked.write_bytes(pickle.dumps((replace(request, source=None), [dict(call) for call in calls])))
        command = [sys.executable, "-P", __file__, str(asked)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(command, env=env, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            why = f"it did not end within {_SECONDS} s in a process of its own"
            raise SessionError(who, why, "use another backend or export route") from error
    if done.returncode < 0:
        raise ended(done.returncode, SessionError, who, "ran it", "", "use another backend or export route")


def _main(file: str) -> None:
    from optimum_core.errors import OptimumError
    from optimum_core.plugins import manager

    request, calls = pickle.loads(Path(file).read_bytes())
    run = manager().binder(manager().load_session(request))
    for inputs in calls:
        try:
            run(inputs)
        except OptimumError:
            continue


if __name__ == "__main__":
    _main(sys.argv[1])
