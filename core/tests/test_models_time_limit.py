"""What takes too long is ended, and nothing is raised after what ended in time."""

from __future__ import annotations

import time

import pytest

from optimum_core.errors import ExportError
from optimum_core.models.time_limit import time_limit


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
