"""The table of paths, and what every request goes through: limits, decoding, a deadline, errors, figures and a log."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from optimum_core.errors import OptimumError
from optimum_serve.bodies import Body
from optimum_serve.errors import RequestError, invalid, of_error

if TYPE_CHECKING:
    from optimum_serve.server import Server

log = logging.getLogger("optimum_serve.requests")
T = TypeVar("T")
#: The only version of every model, where a path has one.
VERSION = "1"
_JSON = "application/json"
#: The first half of a pair of surrogates in JSON without the second, or the second without a first one.
_HALF = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
#: Places and names of fields in messages of msgspec, which gives them in no other way.
_ABOVE, _NAMED = re.compile(r"`\$\.?([^`]*)`$"), re.compile(r"field `([^`]*)`")
#: Fields of a body from which those that are null are left out: more of them would take memory by far beyond its own.
_NULLS = 10_000
#: Seconds until a client is expected to go away.
_PATIENCE = 0.25
Handler = Callable[[Request], Awaitable[Response]]
#: Turns a problem into the body of an answer.
Render = Callable[[RequestError], Any]


@dataclass(kw_only=True, slots=True)
class Call:
    """One request, read.

    Attributes:
        memory: counts what the request holds until it has been answered.
        body: of the endpoint's type; None where it takes none.
        model: the name of the model that answers, once it is known; for figures and the log.
    """

    server: Server
    request: Request
    memory: Body
    body: Any = None
    model: str = ""

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that vary."""
        return self.request.path_params


def plainly(problem: RequestError) -> dict[str, str]:
    """Return a problem as text-embeddings-inference and the server's own paths have it."""
    return {"error": problem.message, "error_type": problem.kind}


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A path, and what answers there.

    Attributes:
        takes: the structure of the body in JSON; `bytes` for any body, None for none.
        json: the structure of the body where it is JSON, and `takes` is `bytes`; for the description.
        files: whether the body may be a file, or a form with files; for the description.
        gives: the structure of the answer, for the description of all endpoints.
        render: turns a problem into the body of an answer.
        is_open: whether no key is needed.
        statuses: the statuses that the protocol has in the place of ours.
    """

    method: str
    path: str
    answer: Callable[[Call], Awaitable[Response]]
    summary: str
    protocol: str
    takes: Any = None
    json: Any = None
    files: bool = False
    gives: Any = None
    render: Render = plainly
    is_open: bool = False
    statuses: Mapping[int, int] = field(default_factory=dict)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(msgspec.json.encode(value), status, dict(headers or {}), _JSON)


def handler_of(endpoint: Endpoint, server: Server) -> Handler:
    """Return the function that answers requests to an endpoint."""
    decoder = msgspec.json.Decoder(endpoint.takes) if endpoint.takes not in (None, bytes) else None

    async def handle(request: Request) -> Response:
        start = time.perf_counter()
        own = Body(server.bodies, server.settings.max_body, server.settings.body_timeout)
        call = Call(server=server, request=request, memory=own)
        tracing = server.tracing
        trace = tracing.begin(endpoint.method, endpoint.path, request.headers) if tracing is not None else None
        try:
            if not endpoint.is_open:
                _check_key(request, server.settings.api_keys)
            if endpoint.takes is not None:
                _check_type(request, endpoint)
                body = await own.read(request)
                call.body = body if decoder is None else decoded(decoder, body)
            response = await _within(endpoint.answer(call), request, server.settings.timeout)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - no traceback leaves: it is in the log
            problem = _problem(error)
            problem.status = endpoint.statuses.get(problem.status, problem.status)
            response = json_response(endpoint.render(problem), problem.status, problem.headers)
        finally:
            own.release()
        _note(call, endpoint, response.status_code, time.perf_counter() - start)
        if trace is not None:
            trace.end(response.status_code, call.model)
        return response

    return handle


class FixedPaths:
    """Middleware of ASGI that answers at paths without parts that vary, before Starlette's router tries one by one.

    A slash at a path's end makes no difference: the router would redirect to the address under which it knows itself,
    which behind a proxy is another.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and scope["path"].endswith("/") and scope["path"] != "/":
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        handle = self._handlers.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handle is None:
            await self._app(scope, receive, send)
            return
        response = await handle(Request(scope, receive))
        await response(scope, receive, send)


def _problem(error: BaseException) -> RequestError:
    """Return what a client is told of an error, and log what the server is to blame for."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, OptimumError):
        problem = of_error(error)
        if problem.status == 500:
            log.error("request failed: %s", error)
        return problem
    if isinstance(error, ClientDisconnect):
        return RequestError(status=499, kind="gone", message="the client has closed the connection")
    if isinstance(error, asyncio.CancelledError):
        return RequestError(status=503, kind="stopping", message="the server has been told to stop")
    log.error("request failed", exc_info=error)
    return RequestError(status=500, kind="failed", message="the request failed; the server's log says why")


def _check_key(request: Request, keys: tuple[str, ...]) -> None:
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    fits = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(fits):
        headers = {"WWW-Authenticate": "Bearer"}
        raise RequestError(
            status=401, kind="unauthorized", message="pass a valid key: Authorization: Bearer …", headers=headers
        )


def _check_type(request: Request, endpoint: Endpoint) -> None:
    """Refuse a body that says that it is in another form than JSON, where that alone is read.

    Clients such as curl say that a body is a form where they were not told what it is.
    """
    stated = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if endpoint.takes is bytes or not stated or stated.endswith(("json", "/plain", "/octet-stream", "-urlencoded")):
        return
    message = f"a body of the type {stated} is not read here: send JSON (Content-Type: {_JSON})"
    raise RequestError(status=415, kind="not_supported", message=message)


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return a body, decoded.

    Raises:
        RequestError: it is no JSON (400), or does not fit (422).
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            return _without_nulls(decoder, body, error)
    except msgspec.ValidationError as error:
        raise invalid(str(error), field=field_of(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if half := _HALF.search(body):
            raise invalid(
                f"the body has {half[0].decode()}, half of a character: send both, or none", status=400
            ) from None
        raise invalid(f"the body is no JSON: {error}", status=400) from None


def _without_nulls(decoder: msgspec.json.Decoder[T], body: bytes, problem: msgspec.ValidationError) -> T:
    """Return a body that does not fit, decoded without the fields that are null: some clients write null for every
    field that they leave out, also for those that are unknown here.

    Raises:
        msgspec.ValidationError: it does not fit then either.
    """
    if not 0 < body.count(b"null") <= _NULLS or body.count(b":") > _NULLS:
        raise problem
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    stated = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    try:
        return decoder.decode(msgspec.json.encode(stated))
    except msgspec.ValidationError:
        raise problem from None


def field_of(error: msgspec.ValidationError) -> str:
    """Return the field that an error of msgspec is about, as "messages[0].role"; empty: the whole body.

    >>> field_of(msgspec.ValidationError("Object contains unknown field `a` - at `$.b[...]`"))
    'b[...].a'
    """
    above, named = (pattern.search(str(error)) for pattern in (_ABOVE, _NAMED))
    return ".".join(found[1] for found in (above, named) if found is not None and found[1])


async def _within(answer: Awaitable[Response], request: Request, seconds: float) -> Response:
    """Return an answer, unless it takes too long or the client goes away: then what is asked for is cancelled.

    Raises:
        RequestError: it took too long (504), or its client is gone (499).
    """
    absence = _Absence(request)
    try:
        async with asyncio.timeout(seconds) as deadline:
            absence.watch(deadline)
            return await answer
    except TimeoutError:
        if not deadline.expired():
            raise
    finally:
        absence.close()
    if absence.is_sure:
        raise RequestError(status=499, kind="gone", message="the client has closed the connection")
    raise RequestError(status=504, kind="timeout", message=f"there was no answer within {seconds:g} s")


class _Absence:
    """Lets a deadline pass at once when the client has gone. It begins to look after a moment, since most answers come
    sooner and to look costs a task.
    """

    def __init__(self, request: Request) -> None:
        self.is_sure = False
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: asyncio.Timeout) -> None:
        """Begin, in a moment."""
        self._timer = self._loop.call_later(_PATIENCE, self._begin, deadline)

    def _begin(self, deadline: asyncio.Timeout) -> None:
        self._look = self._loop.create_task(self._until_gone(deadline))

    async def _until_gone(self, deadline: asyncio.Timeout) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.is_sure = True
        deadline.reschedule(self._loop.time())

    def close(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()


def _note(call: Call, endpoint: Endpoint, status: int, seconds: float) -> None:
    server = call.server
    server.metrics.observe(call.model, endpoint.path, status, seconds)
    if server.settings.access_log:
        found = {"path": endpoint.path, "status": status, "model": call.model, "ms": round(seconds * 1e3, 2)}
        log.info("request", extra=found)


async def together(asked: Sequence[Coroutine[Any, Any, str]]) -> list[str]:
    """Return what all of them return; where one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def event_stream(pieces: AsyncIterator[Any]) -> StreamingResponse:
    """Return an answer of server-sent events: each piece in JSON, then [DONE]."""

    async def events() -> AsyncIterator[bytes]:
        try:
            async for piece in pieces:
                yield b"data: " + msgspec.json.encode(piece) + b"\n\n"
        except Exception as error:  # noqa: BLE001 - the status has been sent: whatever it is, the client is told here
            problem = _problem(error)
            yield (
                b"data: " + msgspec.json.encode({"error": {"message": problem.message, "type": problem.kind}}) + b"\n\n"
            )
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
