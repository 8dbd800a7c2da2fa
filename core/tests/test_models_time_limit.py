"""A block that takes too long is ended, and nothing is raised after one that ended in time."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from optimum_core.errors import ExportError
from optimum_core.models.eager.time_limit import export_limit, time_limit


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        try:
            sum(range(100))
        except Exception:  # noqa: BLE001 - as libraries do
            continue


def test_what_does_not_end_is_ended() -> None:
    with pytest.raises(ExportError, match=r"within 0 s(.|\n)*use another"), time_limit(0.05, "export", "use another"):
        _spin(60.0)


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(0.3, "export", "use another"):
        _spin(0.01)
    _spin(0.5)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="threads have no clock of their own here")
def test_time_without_the_cpu_does_not_count() -> None:
    with time_limit(0.1, "export", "use another"):
        time.sleep(0.3)  # as a thread that waits for others on a busy machine


def test_a_tiny_model_has_less_time_than_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr("optimum_core.models.eager.time_limit.time_limit", lambda seconds, *_: asked.append(seconds))
    for width in (1, 2**20):
        export_limit(torch.nn.Linear(width, 8, bias=False, device="meta"), "export", "use another")
    assert asked == pytest.approx([45.0, 61.0], abs=0.01)


def test_a_profiler_runs_after_a_limit() -> None:
    """In a process of its own: it would hang in the interpreter, where nothing can end it."""
    code = """
import sys
from optimum_core.models.eager.time_limit import time_limit
with time_limit(60.0, "export", "use another"):
    pass
calls = []
sys.setprofile(lambda frame, event, argument: calls.append(event))
(lambda: 1)()
sys.setprofile(None)
print(calls[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "call"
