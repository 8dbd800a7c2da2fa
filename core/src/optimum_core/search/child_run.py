"""Runs of a risky candidate in a child process, so that a crash of its runtime ends the child and not the caller.

An export that took one side of a branch on values has constants of one call in its graph. At other shapes a runtime may
read beyond them: OpenVINO was seen to end the process by SIGSEGV, though not every time. So the first comparison is of
what the child answered, and only a candidate that is right there runs in this process. To start a child takes a second
or two, so only such candidates run there first; and only on installed backends, since a child process has no others.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.errors import OptimumError, SessionError, ended
from optimum_core.generation.model_session import open_session, run_function
from optimum_core.plugins import manager
from optimum_core.types import SessionRequest

_SECONDS = 120


def run_in_child(
    request: SessionRequest, calls: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Open a session in a child process and run it on these inputs.

    Returns:
        A function that answers these inputs as the child did: with the outputs by name, or by raising the error.

    Raises:
        SessionError: a signal ended the child, or it did not end in time.
        OptimumError: the backend cannot open the artifact.
    """
    who = f"backend {request.backend!r}, {request.artifact.path}"
    remedy = "use another backend or export route"
    with TemporaryDirectory(prefix="optimum-") as folder:
        asked, answered = Path(folder, "calls.pickle"), Path(folder, "answers.pickle")
        asked.write_bytes(pickle.dumps((replace(request, source=None), [dict(call) for call in calls])))
        command = [sys.executable, "-P", __file__, str(asked), str(answered)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            why = f"it did not end within {_SECONDS} s in a process of its own"
            raise SessionError(who, why, remedy) from error
        if done.returncode != 0:
            said = next(reversed(done.stderr.splitlines()), "")  # of a traceback, the line that names the error
            raise ended(done.returncode, SessionError, who, "ran it", said, remedy)
        found = pickle.loads(answered.read_bytes())
    if isinstance(found, OptimumError):
        raise found
    answers = dict(zip(map(_content, calls), found, strict=True))

    def replay(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = answers[_content(inputs)]
        if isinstance(answer, OptimumError):
            raise answer
        outputs: Mapping[str, Any] = answer
        return outputs

    return replay


def _content(inputs: Mapping[str, Any]) -> bytes:
    return pickle.dumps([(name, inputs[name].shape, inputs[name].tobytes()) for name in sorted(inputs)])


def _main(asked: str, answered: str) -> None:
    request, calls = pickle.loads(Path(asked).read_bytes())
    Path(answered).write_bytes(pickle.dumps(_answers(request, calls)))


def _answers(request: SessionRequest, calls: Sequence[Mapping[str, Any]]) -> list[object] | OptimumError:
    try:
        run = run_function(manager(), open_session(manager(), request))
    except OptimumError as error:
        return error
    return [_answer(run, inputs) for inputs in calls]


def _answer(run: Callable[[Mapping[str, Any]], Mapping[str, Any]], inputs: Mapping[str, Any]) -> object:
    try:
        return dict(run(inputs))
    except OptimumError as error:
        return error


if __name__ == "__main__":
    _main(*sys.argv[1:])
