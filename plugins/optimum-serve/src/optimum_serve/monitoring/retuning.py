"""Retuning: a model is tuned for the traffic that came, in a process at the lowest priority, and then swapped.

The process runs `optimum-core retune` on the artifact's directory, and writes a tuned copy to a temporary directory,
which lives as long as the server: the artifact itself is never changed.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from optimum_core import AcceleratedModel, load
from optimum_core.errors import OptimumError
from optimum_core.types import ModelTraffic, Traffic
from optimum_serve.errors import RequestError
from optimum_serve.monitoring.drift import stability_index
from optimum_serve.monitoring.figures import MonitoringFigures
from optimum_serve.monitoring.truth import lowered

if TYPE_CHECKING:
    from optimum_serve.serving import ServedModel

log = logging.getLogger(__name__)
#: The index of stability above which shapes have moved so far that it is worth to tune again.
MOVED = 0.25
#: What decides how a model runs.
_SETTINGS = ("backend", "device", "precision", "streams", "session_options", "prepared")
RUNNING = "running"


class _RetuneError(Exception):
    """The process has ended with an error, which is its whole message, remedy included."""


class Retuner:
    """Tunes one model at a time.

    Args:
        after: calls of a model after which it is tuned without being asked; 0: never.
    """

    def __init__(self, after: int, figures: MonitoringFigures) -> None:
        self._after, self._figures = after, figures
        self.states: dict[str, str] = {}
        self._tuned_for: dict[str, ModelTraffic] = {}
        self._copies: dict[str, TemporaryDirectory[str]] = {}
        self._child: subprocess.Popen[str] | None = None
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, model: ServedModel) -> None:
        """Begin to tune a model.

        Raises:
            RequestError: it cannot be tuned, another is being tuned, or the model was not called yet (409).
        """
        if not model.model.can_be_retuned:
            why = (
                "it carries no call of an original to compare with, as a model that another package converted has none"
            )
            message = f"model {model.name!r} cannot be tuned: {why}; serve the checkpoint that it was made from"
            raise RequestError(status=409, kind="not_supported", message=message)
        running = next((name for name, state in self.states.items() if state == RUNNING), None)
        if running is not None:
            raise RequestError(status=409, kind="busy", message=f"model {running!r} is being tuned")
        traffic = model.watch.traffic.since()
        if not traffic.calls:
            raise RequestError(status=409, kind="no_traffic", message=f"model {model.name!r} was not called yet")
        self.states[model.name] = RUNNING
        self._task = asyncio.get_running_loop().create_task(self._retune(model, traffic))

    def is_due(self, model: ServedModel) -> bool:
        """Whether a model was called so often since it was last tuned, and its shapes have moved."""
        if not self._after or RUNNING in self.states.values() or not model.is_ready or not model.model.can_be_retuned:
            return False
        before = self._tuned_for.get(model.name)
        fresh = model.watch.traffic.since(before)
        if sum(one.count for one in fresh.calls) < self._after:
            return False
        return before is None or _index(before, fresh) > MOVED

    async def close(self) -> None:
        """End what runs, and remove tuned copies."""
        self._is_closing = True
        if self._child is not None:
            self._child.kill()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        for copy in self._copies.values():
            copy.cleanup()

    async def _retune(self, model: ServedModel, traffic: ModelTraffic) -> None:
        self._tuned_for[model.name] = traffic
        outcome = "failed"
        copy = TemporaryDirectory(prefix="optimum-retuned-", ignore_cleanup_errors=True)
        try:
            tuned = await asyncio.to_thread(self._tuned, model, traffic, Path(copy.name))
            outcome = "kept" if _runs_alike(tuned, model.model) else "swapped"
            self.states[model.name] = f"{outcome}: {_said(tuned, traffic)}"
            if outcome == "kept":
                await asyncio.to_thread(tuned.close)
                return
            former = self._copies.pop(model.name, None)
            await model.replace(tuned)
            self._copies[model.name], copy = copy, former or copy
        except (OptimumError, OSError, _RetuneError) as error:
            self.states[model.name] = f"failed: {error}"
            log.error("model %s was not tuned: %s", model.name, error)
        finally:
            if self.states[model.name] == RUNNING:
                self.states[model.name] = "failed; the server's log says why"
            self._figures.retunes.labels(model.name, outcome).inc()
            log.info("retuned", extra={"model": model.name, "state": self.states[model.name]})
            if self._copies.get(model.name) is not copy:
                copy.cleanup()

    def _tuned(self, model: ServedModel, traffic: ModelTraffic, place: Path) -> AcceleratedModel:
        """Return the model, tuned; in a thread.

        Raises:
            _RetuneError: no backend runs it as eager did, or the process failed.
            OptimumError: what it wrote cannot be opened.
        """
        file, out = place / "traffic.json", place / "model"
        file.write_text(Traffic(models=(traffic,)).to_json(), encoding="utf-8")
        source, precision = str(model.model.directory), model.model.manifest.precision
        command = [sys.executable, "-m", "optimum_core", "retune", source, "--traffic", str(file), "--out", str(out)]
        self._child = subprocess.Popen(
            [*command, "--precision", precision], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if self._is_closing:
            self._child.kill()
        lowered(self._child)
        _, said = self._child.communicate()
        if self._child.returncode:
            raise _RetuneError(said.strip()[-2000:] or "its process was ended; ask again: POST /retune")
        return load(out)


def _index(before: ModelTraffic, now: ModelTraffic) -> float:
    """Return the index of stability of the shapes of calls."""
    counts = [{tuple(sorted(one.lengths.items())): one.count for one in traffic.calls} for traffic in (before, now)]
    shapes = sorted({*counts[0], *counts[1]})
    then, since = ([found.get(shape, 0) for shape in shapes] for found in counts)
    return stability_index(then, since)


def _runs_alike(one: AcceleratedModel, other: AcceleratedModel) -> bool:
    return all(getattr(one.manifest, name) == getattr(other.manifest, name) for name in _SETTINGS)


def _said(model: AcceleratedModel, traffic: ModelTraffic) -> str:
    """Return what a model was tuned for, and what was chosen."""
    report = model.report
    if report is None or report.chosen is None:
        return ""
    calls = sum(one.count for one in traffic.calls)
    return f"tuned for {calls} calls, at {', '.join(report.workload)}; {report.chosen.name}"
