"""The server's own paths: health, readiness, figures, the description of all paths, and the page."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, Response

from optimum_serve.endpoints import Call, Endpoint, json_response
from optimum_serve.openapi import description
from optimum_serve.serving import ServedModel

_NAME = "server"


async def _health(call: Call) -> Response:
    return json_response({"status": "ok"})


async def _ready(call: Call) -> Response:
    models = {model.name: _state(model) for model in call.server.models.values()}
    return json_response({"ready": call.server.is_ready, "models": models}, 200 if call.server.is_ready else 503)


def _state(model: ServedModel) -> str:
    return "ready" if model.is_ready else "failed" if model.problem else "opening"


async def _metrics(call: Call) -> Response:
    return Response(call.server.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _openapi(call: Call) -> Response:
    return json_response(description(call.request.app.state.endpoints, list(call.server.models)))


async def _status(call: Call) -> Response:
    recent = call.server.metrics.recent
    models = [
        {**_about(model), **(recent[model.name].summary() if model.name in recent else {})}
        for model in call.server.models.values()
    ]
    return json_response({"ready": call.server.is_ready, "models": models})


def _about(model: ServedModel) -> dict[str, Any]:
    if not model.is_ready:
        return {"name": model.name, "state": _state(model), "problem": model.problem.partition("\n")[0]}
    manifest = model.model.manifest
    fidelity = manifest.fidelity
    return {
        "name": model.name,
        "state": "ready",
        "kind": model.kind,
        "takes": model.medium,
        "chats": model.chats,
        "task": manifest.task,
        "backend": model.model.backend,
        "precision": manifest.quantized or manifest.precision,
        "proof": model.model.proof,
        "error": fidelity.worst.relative_error if fidelity is not None and fidelity.worst is not None else None,
        "waiting": model.depth,
        **({"writing": model.writing} if model.writing else {}),
    }


async def _page(call: Call) -> Response:
    policy = "default-src 'self' 'unsafe-inline'; img-src data:"
    return HTMLResponse(_html(), headers={"Content-Security-Policy": policy})


@cache
def _html() -> str:
    return (files("optimum_serve") / "page.html").read_text(encoding="utf-8")


def _endpoint(path: str, answer: Any, summary: str, gives: Any = None, *, is_open: bool = False) -> Endpoint:
    return Endpoint(
        method="GET", path=path, answer=answer, summary=summary, protocol=_NAME, gives=gives, is_open=is_open
    )


ENDPOINTS = (
    _endpoint("/health", _health, "Whether the server runs", dict[str, str], is_open=True),
    _endpoint("/ping", _health, "Whether the server runs (SageMaker)", dict[str, str], is_open=True),
    _endpoint("/ready", _ready, "Whether all models answer", dict[str, Any], is_open=True),
    _endpoint("/metrics", _metrics, "Figures for Prometheus"),
    _endpoint("/openapi.json", _openapi, "Describe all paths", dict[str, Any], is_open=True),
    _endpoint("/status.json", _status, "The models, their proof and their figures", dict[str, Any]),
    _endpoint("/", _page, "The page of the server", is_open=True),
)
