"""Traces reach a collector: one span for a request, below it the queue and the model; nothing of its contents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from optimum_core.errors import UnavailableError
from optimum_serve.tracing import tracing_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class _Collector(ThreadingHTTPServer):
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        asked = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for one in asked
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Receive(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces" and "Content-Encoding" not in self.headers
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_with_its_queue_and_its_model(serve: Any, collector: _Collector) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    live = serve("encoder", "writer", traces=collector.url)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    assert live.client.post("/embed", json={"inputs": ["w5 private", "w9"]}, headers=headers).status_code == 200
    assert live.client.post("/embed", json={"inputs": 5}).status_code == 422
    text = {"prompt": "ab", "max_tokens": 3, "temperature": 0}
    assert live.client.post("/v1/completions", json=text).status_code == 200
    live.stop()
    by_name: dict[str, list[Any]] = {}
    for span in collector.spans():
        by_name.setdefault(span.name, []).append(span)
    embed, refused = by_name["POST /embed"]
    assert embed.trace_id.hex() == TRACE and embed.parent_span_id.hex() == PARENT
    (queue,), (model,) = by_name["queue"], by_name["model"]
    assert queue.parent_span_id == model.parent_span_id == embed.span_id
    assert embed.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano <= model.end_time_unix_nano <= embed.end_time_unix_nano
    assert _attributes(model) == {"inputs": 2, "tokens": 7}
    assert _attributes(embed) == {
        "http.request.method": "POST", "http.route": "/embed", "http.response.status_code": 200,
        "optimum.model": "encoder",
    }  # fmt: skip
    assert _attributes(refused)["http.response.status_code"] == 422
    (completion,), (written,) = by_name["POST /v1/completions"], by_name["write"]
    assert written.parent_span_id == completion.span_id and _attributes(written)["pieces"] >= 3
    assert not any(b"private" in body for body in collector.bodies)


def _attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_traces_that_cannot_be_sent_are_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing_of("", {}) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UnavailableError, match=r"optimum-serve\[otel\]"):
        tracing_of("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
