"""Truth in production: one request in N is computed again by the eager model, aside, and compared."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from optimum_core.types.quantization import Scheme
from optimum_serve.monitoring.eager import Begin, Sample, Tensor, Verdict, receive, send
from optimum_serve.monitoring.figures import MonitoringFigures

log = logging.getLogger(__name__)
#: Samples that may wait; further ones are dropped.
_WAITING = 4
_CLOSING_SECONDS = 5.0
LOWEST = 19


class TruthSampler:
    """Samples the requests of one model, and lets a process of its own compare them. No request waits for it.

    Args:
        begin: the original.
        every: one request in so many is sampled.
    """

    def __init__(self, name: str, begin: Begin, every: int, figures: MonitoringFigures) -> None:
        self._name, self._begin, self._every, self._figures = name, begin, every, figures
        self._number = 0
        self._samples: queue.Queue[Sample | None] = queue.Queue(_WAITING)
        self._child: subprocess.Popen[bytes] | None = None
        self.problem = ""
        self._thread = threading.Thread(target=self._work, name=f"truth-{name}", daemon=True)
        self._thread.start()

    def offer(self, item: Any, outputs: Mapping[str, Any]) -> None:
        """Take note of an answered input, which is sampled in its turn, unless too many wait.

        Args:
            item: arrays by name, without the batch axis; or a picture or a sound.
            outputs: arrays by name, without the batch axis.
        """
        self._number += 1
        if self._number % self._every or self.problem:
            return
        try:
            self._samples.put_nowait(_sample(item, outputs))
        except queue.Full:
            self._note("dropped")

    def close(self) -> None:
        """End the process."""
        self.problem = self.problem or "closed"
        child = self._child
        if child is not None:
            try:
                child.kill()
                child.wait(_CLOSING_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                log.warning("the process that compares answers did not end")
        with self._samples.mutex:
            self._samples.queue.clear()
        self._samples.put(None)
        self._thread.join(_CLOSING_SECONDS)

    def _note(self, verdict: str) -> None:
        self._figures.truth.labels(self._name, verdict).inc()

    def _work(self) -> None:
        try:
            with _child() as child:
                self._child = child
                self._compare(child)
        except (OSError, ValueError) as error:
            self._give_up(str(error))

    def _compare(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None
        send(child.stdin, self._begin)
        opened = receive(child.stdout, Verdict)
        if opened is None or opened.problem:
            self._give_up("its process ended" if opened is None else opened.problem)
            return
        while (sample := self._samples.get()) is not None:
            send(child.stdin, sample)
            verdict = receive(child.stdout, Verdict)
            if verdict is None:
                self._give_up("its process ended")
                return
            self._judge(verdict)

    def _give_up(self, why: str) -> None:
        if not self.problem:
            log.error("answers of model %s are no longer compared with the eager model: %s", self._name, why)
            self._note("failed")
        self.problem = self.problem or why

    def _judge(self, verdict: Verdict) -> None:
        if verdict.problem:
            log.warning("an answer of model %s was not compared: %s", self._name, verdict.problem)
            self._note("failed")
            return
        self._figures.error.labels(self._name).observe(verdict.error)
        self._note("within" if verdict.passed else "beyond")
        if verdict.agrees is not None:
            self._figures.choices.labels(self._name, str(verdict.agrees).lower()).inc()


def precision_of(manifest: Any) -> str:
    """Return the precision whose tolerance a model is held to."""
    return Scheme.parse(manifest.quantized).weights if manifest.quantized else str(manifest.precision)


def lowered(process: subprocess.Popen[Any]) -> None:
    """Give a process the lowest priority, and those of its threads that it has not started yet."""
    try:
        psutil.Process(process.pid).nice(LOWEST if os.name == "posix" else psutil.IDLE_PRIORITY_CLASS)
    except psutil.Error:
        log.warning("process %d has the usual priority", process.pid)


def _child() -> subprocess.Popen[bytes]:
    """Start the process: at the lowest priority, with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    child = subprocess.Popen(
        [sys.executable, "-m", "optimum_serve.monitoring.eager"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, env={**os.environ, **threads},
    )  # fmt: skip
    lowered(child)
    return child


def _sample(item: Any, outputs: Mapping[str, Any]) -> Sample:
    named, whole = (item, None) if isinstance(item, Mapping) else ({}, Tensor.of(np.asarray(item)))
    return Sample(
        named={name: Tensor.of(value) for name, value in named.items()},
        whole=whole,
        outputs={name: Tensor.of(value) for name, value in outputs.items()},
    )
