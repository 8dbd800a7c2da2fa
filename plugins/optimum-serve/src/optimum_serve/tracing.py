"""Traces of OpenTelemetry, where an endpoint is set: a span for each request, and below it its time in the queue and in
the model. Contents of requests are in none.

Names of attributes: https://opentelemetry.io/docs/specs/semconv/http/http-spans.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from optimum_core.errors import UnavailableError

#: Variables that OpenTelemetry itself reads.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORT_SECONDS = 5


class RequestTrace:
    """The span of one request.

    Args:
        headers: of the request; a `traceparent` among them makes the span a part of the client's trace.
    """

    def __init__(self, tracer: Any, method: str, path: str, headers: Mapping[str, str]) -> None:
        from opentelemetry import propagate, trace

        self._tracer, self._trace = tracer, trace
        self._zero = time.time_ns() - time.perf_counter_ns()
        self._span = tracer.start_span(
            f"{method} {path}",
            propagate.extract(headers),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": path},
        )

    def add(self, name: str, start: float, end: float, **attributes: int) -> None:
        """Add a part of the request, which has ended.

        Args:
            start, end: as `time.perf_counter` gives them.
        """
        below = self._trace.set_span_in_context(self._span)
        span = self._tracer.start_span(name, below, start_time=self._nanoseconds(start), attributes=attributes)
        span.end(self._nanoseconds(end))

    def end(self, status: int, model: str) -> None:
        """End the span, with the status of the answer."""
        self._span.set_attributes({"http.response.status_code": status, "optimum.model": model})
        if status >= 500:
            self._span.set_status(self._trace.StatusCode.ERROR)
        self._span.end()

    def _nanoseconds(self, seconds: float) -> int:
        return self._zero + int(seconds * 1e9)


#: The trace of the request that the current task answers.
current_trace: ContextVar[RequestTrace | None] = ContextVar("current_trace", default=None)


class Tracing:
    """Traces, sent to a collector.

    Args:
        endpoint: the address of a collector (OTLP over HTTP), such as "http://collector:4318"; empty: that of
            OpenTelemetry's own variables.

    Raises:
        UnavailableError: the packages for it are missing.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UnavailableError("traces", str(error), "pip install 'optimum-serve[otel]'") from error
        address = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
        name = os.environ.get("OTEL_SERVICE_NAME", "optimum-serve")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=address, timeout=_EXPORT_SECONDS))
        )
        self._tracer = self._provider.get_tracer("optimum_serve")

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> RequestTrace:
        """Return the trace of a request, and let `current_trace` be it."""
        trace = RequestTrace(self._tracer, method, path, headers)
        current_trace.set(trace)
        return trace

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def tracing_of(endpoint: str, environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return the traces, where an endpoint is set; else None.

    Raises:
        UnavailableError: the packages for it are missing.
    """
    is_set = endpoint or any(environment.get(name) for name in _ENDPOINTS)
    return Tracing(endpoint) if is_set else None
