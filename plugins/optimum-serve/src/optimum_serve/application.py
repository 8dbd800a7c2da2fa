"""The ASGI application: all endpoints, and what happens at the start and at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from optimum_serve.endpoints import Endpoint, FixedPaths, handler_of, json_response, plainly
from optimum_serve.errors import RequestError
from optimum_serve.protocols import inference, monitoring, openai, operations, reranking, tei, tei_tokens
from optimum_serve.server import Server
from optimum_serve.settings import Settings

_PROTOCOLS = (openai, tei, tei_tokens, reranking, inference, operations, monitoring)
ENDPOINTS: tuple[Endpoint, ...] = tuple(endpoint for protocol in _PROTOCOLS for endpoint in protocol.ENDPOINTS)


def create_app(settings: Settings, *, ends_process: bool = False) -> Starlette:
    """Return the application, for uvicorn or any server of ASGI. Models are opened once it has started: until then
    `/ready` answers 503.

    Args:
        settings: as `read_settings` gives them.
        ends_process: the process ends when the application does, so that a search need not be waited for.
    """
    server = Server(settings, ends_process=ends_process)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(task) for task in (server.start(), server.watch_energy(), server.watch())]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await server.stop()

    handlers = {(endpoint.method, endpoint.path): handler_of(endpoint, server) for endpoint in ENDPOINTS}
    middleware = []
    if settings.cors_origins:
        allowed: dict[str, Any] = {"allow_origins": settings.cors_origins, "allow_methods": ["GET", "POST"]}
        middleware.append(Middleware(CORSMiddleware, **allowed, allow_headers=["*"]))
    app = Starlette(
        routes=[Route(path, handle, methods=[method]) for (method, path), handle in handlers.items()],
        middleware=[*middleware, Middleware(FixedPaths, handlers=handlers)],
        lifespan=lifespan,
        exception_handlers={404: _missing, 405: _wrong_method},
    )
    app.state.server, app.state.endpoints = server, ENDPOINTS
    return app


async def _missing(request: Request, error: Exception) -> Response:
    problem = RequestError(status=404, kind="no_path", message="there is no such path; /openapi.json describes all")
    return _told(request, problem)


async def _wrong_method(request: Request, error: Any) -> Response:
    message = f"{request.method} is not taken here"
    return _told(request, RequestError(status=405, kind="wrong_method", message=message, headers=error.headers))


def _told(request: Request, problem: RequestError) -> Response:
    render = openai.render if request.url.path.startswith("/v1/") else plainly
    return json_response(render(problem), problem.status, problem.headers)
