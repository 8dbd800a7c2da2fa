"""Processes that accelerate a model and tell each step, to be killed at any moment.

They are forked from one process that has imported the libraries, as importing them takes longer than all that they do.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch", "transformers.models.bert.modeling_bert", "onnx", "onnxruntime", "optimum_core.pipeline", "optimum_ort"]
)


def _accelerate(told: Connection, model: str, cache: str, stop: str) -> None:
    """Accelerate a directory and send each event; stop for good when the stage `stop` begins."""
    import torch

    from optimum_core import accelerate
    from optimum_core.measure import Effort, measuring
    from optimum_core.types import Event

    torch.set_num_threads(1)

    def said(event: Event) -> None:
        told.send([event.stage, event.seconds is not None])
        if event.stage == stop and event.seconds is None:
            time.sleep(600)

    with measuring(Effort(rounds=2, seconds=0.02, steady=math.inf)):
        fast = accelerate(
            model, target="ort", level="all", shapes=({"batch": 1},), budget=0, cache_dir=cache, progress=said
        )
    assert fast.report is not None
    told.send(["done", fast.report.from_cache])


class Child:
    """A process that accelerates; `events` yields what it says as it says it."""

    def __init__(self, directory: Path, cache: Path, stop: str = "") -> None:
        self._told, telling = _FORKS.Pipe(duplex=False)
        self.process = _FORKS.Process(target=_accelerate, args=(telling, str(directory), str(cache), stop))
        self.process.start()
        telling.close()

    def events(self) -> Iterator[list[Any]]:
        """Yield what it says until it ends."""
        while True:
            try:
                yield self._told.recv()
            except EOFError:
                return

    def all_events(self) -> list[list[Any]]:
        """Return all that it says, once it has ended well."""
        found = list(self.events())
        self.process.join(timeout=200)
        assert self.process.exitcode == 0
        return found

    def kill(self) -> None:
        """End it at once, as the system does where memory runs out."""
        self.process.kill()
        self.process.join()

    def until(self, stage: str) -> None:
        """Read until a stage begins."""
        assert any(event == [stage, False] for event in self.events()), f"{stage} never began"
