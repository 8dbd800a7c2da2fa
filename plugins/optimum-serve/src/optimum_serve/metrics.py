"""Counters and times for Prometheus, and the same as plain numbers for the status page. No contents of requests."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from optimum_core.backend import EnergyEstimate, EnergyMeter, energy_estimate
from optimum_serve.monitoring.figures import MonitoringFigures

#: Returns an estimate of this process's energy, or None.
Estimate = Callable[[], EnergyEstimate | None]
#: Seconds of the latest requests that the status page sums up.
_RECENT = 60.0
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All figures of one server.

    Args:
        energy: of this machine; None: its own counters.
        estimate: makes that of this process, for a machine without counters.
    """

    def __init__(self, energy: EnergyMeter | None = None, estimate: Estimate = energy_estimate) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "optimum_requests", "Answered requests", ["model", "path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "optimum_request_seconds", "From a request to its answer", ["model", "path"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._batch = self._histogram("optimum_batch_size", "Inputs in a batch", _SIZES)
        self._queue = self._histogram("optimum_queue_seconds", "The longest wait in a batch", _SECONDS)
        self._model = self._histogram("optimum_model_seconds", "Time of the model for a batch", _SECONDS)
        self._tokens = Counter("optimum_tokens", "Tokens read, without padding", ["model"], registry=self.registry)
        self._padding = Counter("optimum_padding_tokens", "Padding computed", ["model"], registry=self.registry)
        self._written = Counter("optimum_written_tokens", "Tokens written", ["model"], registry=self.registry)
        self._step = self._histogram("optimum_step_seconds", "Time of one token of one text", _SECONDS)
        self._waiting = Gauge("optimum_waiting", "Inputs and texts that wait", ["model"], registry=self.registry)
        memory = Gauge("optimum_memory_bytes", "Memory of this process", registry=self.registry)
        memory.set_function(lambda: psutil.Process().memory_info().rss)
        ProcessCollector(registry=self.registry)  # CPU seconds, files: by the names that every Prometheus knows
        self._answered = 0
        self.energy = energy if energy is not None else EnergyMeter()
        if self.energy.is_there:
            told = "Energy of this machine's processors and memory since the start, whatever ran on them"
            self._export_energy("optimum", told, self.energy.joules)
        elif (own := estimate()) is not None:
            told = f"Energy of this process since the start, estimated from its processor time by {own.constants}"
            self._export_energy("optimum_estimated", told, own.joules)
        self.monitoring = MonitoringFigures(self.registry)
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.recent: dict[str, Recent] = {}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model"], buckets=buckets, registry=self.registry)

    def _export_energy(self, prefix: str, told: str, joules: Callable[[], float]) -> None:
        """Add the joules since the start, and those for a thousand requests.

        Args:
            told: what they are of.
        """
        Gauge(f"{prefix}_energy_joules", told, registry=self.registry).set_function(joules)
        each = Gauge(
            f"{prefix}_joules_per_thousand_requests", f"{told}, for 1,000 requests to models", registry=self.registry
        )
        each.set_function(lambda: joules() / max(self._answered, 1) * 1e3)

    def observe(self, model: str, path: str, status: int, seconds: float) -> None:
        """Take note of an answered request."""
        self._answered += bool(model)
        counter, histogram = self._figures(model, path, status)
        counter.inc()
        histogram.observe(seconds)
        if model:
            self.recent.setdefault(model, Recent()).add(seconds)

    def _figures(self, model: str, path: str, status: int) -> tuple[Counter, Histogram]:
        """Return the counter and the times of requests of a kind; to find them by their labels takes a lock each."""
        found = self._known.get((model, path, status))
        if found is None:
            found = self._requests.labels(model, path, str(status)), self._seconds.labels(model, path)
            self._known[model, path, status] = found
        return found

    def of(self, model: str) -> ModelMetrics:
        """Return the figures of one model."""
        return ModelMetrics(model, self)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The figures of one model, for its batcher and its writer."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self._size = metrics._batch.labels(model)
        self._queue = metrics._queue.labels(model)
        self._model = metrics._model.labels(model)
        self._tokens = metrics._tokens.labels(model)
        self._padding = metrics._padding.labels(model)
        self._written = metrics._written.labels(model)
        self._step = metrics._step.labels(model)
        self.waiting = metrics._waiting.labels(model)
        self.monitoring = metrics.monitoring

    def batch(self, size: int, waited: float, took: float, tokens: int, padded: int) -> None:
        """Take note of one batch."""
        self._size.observe(size)
        self._queue.observe(waited)
        self._model.observe(took)
        self._tokens.inc(tokens)
        self._padding.inc(max(padded - tokens, 0))

    def step(self, seconds: float) -> None:
        """Take note of one written token."""
        self._step.observe(seconds)
        self._written.inc()


@dataclass(kw_only=True, slots=True)
class Recent:
    """Times of the requests of the last minute."""

    times: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=4096))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, seconds: float) -> None:
        """Take note of one request."""
        with self._lock:
            self.times.append((time.monotonic(), seconds))

    def summary(self) -> dict[str, float]:
        """Return requests a second, and the median and 99th percentile of milliseconds."""
        now = time.monotonic()
        with self._lock:
            recent = [(at, seconds) for at, seconds in self.times if now - at <= _RECENT]
        if not recent:
            return {"requests_per_second": 0.0}
        ordered = sorted(seconds * 1e3 for _, seconds in recent)
        span = max(now - recent[0][0], 1.0)
        return {
            "requests_per_second": len(recent) / span,
            "p50_ms": ordered[len(ordered) // 2],
            "p99_ms": ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)],
        }
