"""A risky candidate runs in a child process first, on this backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import SessionError
from optimum_core.search.child_run import run_in_child
from optimum_core.types import Artifact, SessionRequest


def test_each_call_is_answered_as_the_child_did_in_any_order(
    linear: Artifact, weight: Any, session_request: Callable[..., SessionRequest]
) -> None:
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    replay = run_in_child(session_request(linear), [{"x": x}, {"x": x[:, :7]}, {"x": -x}])
    for asked in (-x, x, x.copy()):
        np.testing.assert_allclose(replay({"x": asked})["y"], np.maximum(asked @ weight, 0), atol=1e-5)
    with pytest.raises(SessionError, match="invalid dimensions"):
        replay({"x": x[:, :7]})


def test_what_the_backend_cannot_open_is_its_own_error(
    linear: Artifact, session_request: Callable[..., SessionRequest]
) -> None:
    linear.main_file.write_bytes(b"no graph")
    with pytest.raises(SessionError, match="onnxruntime") as raised:
        run_in_child(session_request(linear), [])
    assert raised.value.who.startswith("backend 'ort'")


class Unknown:
    """Cannot be unpickled in another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise LookupError('no such class here')",)


def test_another_failure_of_the_child_is_told_by_its_last_line(
    linear: Artifact, session_request: Callable[..., SessionRequest]
) -> None:
    with pytest.raises(SessionError) as raised:
        run_in_child(session_request(linear), [{"x": Unknown()}])
    assert raised.value.why == "LookupError: no such class here"


class Fatal:
    """Kills the process that unpickles it, as a fault in native code would."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",)


def test_a_signal_that_ends_the_child_is_an_error(
    linear: Artifact, session_request: Callable[..., SessionRequest]
) -> None:
    with pytest.raises(SessionError, match=r"SIGSEGV"):
        run_in_child(session_request(linear), [{"x": Fatal()}])
