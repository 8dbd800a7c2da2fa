"""Waiting in tests for what another thread or process does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any


def until(holds: Callable[[], object], seconds: float = 240) -> None:
    """Wait until it holds; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.02)


def leave_within_a_text(live: Any, **settings: Any) -> None:
    """Take one piece of a long text of the model "writer", and go away; wait until the text has ended."""
    writer = live.app.state.server.models["writer"]._workers.writer
    body = {"prompt": "ab", "max_tokens": 120, "stream": True, **settings}
    with live.client.stream("POST", "/v1/completions", json=body) as answer:
        first = next(answer.iter_lines())
        assert json.loads(first.removeprefix("data: "))["choices"]
    until(lambda: not writer.running and not writer.depth)
