"""The server on many machines: an application of Ray Serve, whose replicas accelerate for the machine they are on.

A request goes from Ray's proxy to a *front*, which keeps it until it is answered, and from there to a *replica*, a
whole server with all protocols. Where a replica or its machine is lost, the front asks another one: no request changes
anything, so that it may be asked twice. Replicas find each other's decisions in the cache, where they have one in
common: a machine of the same kind takes what is there, once its digests are right.

Ray's environment variables are read when it starts, so they are set before that; docs/scaling.md names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from optimum_core.errors import OptionError, UnavailableError
from optimum_serve.application import create_app
from optimum_serve.bodies import Bodies, Body
from optimum_serve.errors import RequestError
from optimum_serve.server import Server
from optimum_serve.settings import ModelSettings, Settings, named, read_settings

try:
    import ray
    from ray import serve
    from ray.exceptions import RayActorError, RaySystemError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
except ImportError as missing:
    raise UnavailableError(
        "optimum_serve.ray", f"Ray Serve is not installed ({missing})", "pip install 'optimum-serve[ray]'"
    ) from missing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

log = logging.getLogger(__name__)
_LOST = (RayActorError, RaySystemError, ReplicaUnavailableError, DeploymentUnavailableError)
#: Seconds between two tries of one request.
_PAUSE = 0.5
#: Headers of an answer: what computed it, and where; and how many replicas were asked.
RUNS, TRIES = "optimum-runs", "optimum-tries"
Headers = Sequence[tuple[bytes, bytes]]
Message = Mapping[str, Any]


def deployment(
    *models: str | ModelSettings,
    objective: str | None = None,
    target: str | None = None,
    store: str | None = None,
    replicas: tuple[int, int] = (1, 4),
    per_machine: int = 1,
    cpus: float = 1.0,
    requests: int = 32,
    models_per_replica: int | None = None,
    patience: float = 60.0,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Return the application for `ray.serve.run`.

    Args:
        models: directories, hub ids, or `NAME=SOURCE`, as `optimum-core serve` takes them.
        objective: what every replica accelerates for: "latency", "throughput" or "size".
        target: a backend, for all of them; None: each measures what it has.
        store: a directory that all machines share: decisions and artifacts are kept there. None: each its own cache.
        replicas: the least and the greatest number of replicas.
        per_machine: replicas on one machine at most: more would accelerate beside each other for cores that they share.
        cpus: Ray's CPUs for one replica; they say where it fits, and bound no threads.
        requests: requests of one replica, running and waiting, from which on another replica is started.
        models_per_replica: models that one replica keeps open, where requests name theirs in Ray's header
            `serve_multiplexed_model_id`; the one that was not used for the longest time is closed. None: all are open.
        patience: seconds in which a request whose replica was lost is asked again.
        settings: further settings of the server, by name.

    Raises:
        OptionError: a setting is unknown or makes no sense.
    """
    stated = [_stated(model, objective, target) for model in models]
    chosen = read_settings({**(settings or {}), "models": stated}, environment={})
    least, most = replicas
    if not 1 <= least <= most:
        raise OptionError("deployment", f"replicas is {replicas}", "pass two numbers, the least and the greatest")
    environment = {"env_vars": {"OPTIMUM_CACHE_DIR": store}} if store is not None else {}
    replica = serve.deployment(
        name="replica",
        autoscaling_config={"min_replicas": least, "max_replicas": most, "target_ongoing_requests": requests},
        max_ongoing_requests=8 * requests,
        max_replicas_per_node=per_machine,
        health_check_period_s=10,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=chosen.drain,
        ray_actor_options={"num_cpus": cpus, "runtime_env": environment},
    )(Replica).bind(chosen, models_per_replica)
    front = serve.deployment(
        name="front",
        autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 8 * requests},
        max_ongoing_requests=64 * requests,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=chosen.drain,
        ray_actor_options={"num_cpus": 0.1},
    )(Front)
    return front.bind(replica, patience, chosen)


def _stated(model: str | ModelSettings, objective: str | None, target: str | None) -> dict[str, Any]:
    found = dict[str, Any](named(model) if isinstance(model, str) else msgspec.structs.asdict(model))
    return {**found, "objective": found.get("objective") or objective, "target": found.get("target") or target}


class Replica:
    """A whole server in an actor of Ray, asked by method instead of by network.

    Args:
        settings: of the server.
        kept: models that are open at once; None: all.
    """

    def __init__(self, settings: Settings, kept: int | None) -> None:
        self._app = create_app(settings)
        self._server: Server = self._app.state.server
        self._node = str(ray.get_runtime_context().get_node_id())[:8]
        if kept is None:
            for name in self._server.models:
                self._open(name)
            self._opened = None
        else:
            self._opened = serve.multiplexed(max_num_models_per_replica=kept)(self._opener())

    def _open(self, name: str) -> None:
        """Open a model.

        Raises:
            UnavailableError: it cannot be opened; Ray then says so of the deployment.
        """
        start = time.monotonic()
        model = self._server.models[name]
        model.open()
        if model.problem:
            raise UnavailableError(f"model {name!r} on node {self._node}", model.problem, "see the replica's log")
        report = model.model.report
        whose = "decided before" if report is not None and report.from_cache else "decided here"
        took = time.monotonic() - start
        log.warning("node %s runs %s: %r, %s, after %.1f s", self._node, name, model.model, whose, took)

    def _opener(self) -> Any:
        """Return the function that opens a model; Ray takes functions, and no bound methods."""

        async def opened(name: str) -> _Opened:
            if name not in self._server.models:
                return _Opened(self._server, "")  # the server says so itself
            await asyncio.to_thread(self._open, name)
            return _Opened(self._server, name)

        return opened

    async def exchange(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes
    ) -> AsyncIterator[Message]:
        """Answer one request: yield the messages of ASGI that its answer is made of."""
        name = serve.get_multiplexed_model_id() or next(iter(self._server.models))
        kept = await self._opened(name) if self._opened is not None else None
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
            "raw_path": path.encode(), "query_string": query, "root_path": "", "scheme": "http", "headers": headers,
            "client": None, "server": None, "app": self._app,
        }  # fmt: skip
        async for message in _messages(self._app, scope, body):
            if message["type"] == "http.response.start":
                runs = (RUNS.encode(), self._runs(name).encode())
                message = {**message, "headers": [*message["headers"], runs]}
            yield message
        del kept

    def _runs(self, name: str) -> str:
        found = self._server.models.get(name)
        if found is None or not found.is_ready:
            return self._node
        backend, manifest = found.model.backend, found.model.manifest
        return f"{backend} {manifest.quantized or manifest.precision} on {self._node}"

    def check_health(self) -> None:
        """Fail where a model does not answer any more."""
        for model in self._server.models.values():
            if model.problem:
                raise RuntimeError(model.problem)

    def __del__(self) -> None:
        """Free the models, when the replica is told to stop."""
        for model in self._server.models.values():
            model.close()


class _Opened:
    """A model that stays open while Ray keeps this."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name

    def __del__(self) -> None:
        if self._name:
            self._server.renew(self._name)


async def _messages(app: Any, scope: Mapping[str, Any], body: bytes) -> AsyncIterator[Message]:
    """Yield what an ASGI application answers; closed early, the application sees that its client is gone."""
    found: asyncio.Queue[Message | None] = asyncio.Queue()
    waiting, gone = [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    task = asyncio.ensure_future(app(scope, receive, found.put))
    task.add_done_callback(lambda _: found.put_nowait(None))
    try:
        while (message := await found.get()) is not None:
            yield message
        await task
    finally:
        gone.set()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Front:
    """Keeps every request until it is answered, and asks again where its replica was lost.

    Args:
        replica: the handle of the replicas.
        patience: seconds in which a request is asked again.
        settings: with the limits of bodies.
    """

    def __init__(self, replica: Any, patience: float, settings: Settings) -> None:
        self._replica, self._patience, self._settings = replica, patience, settings
        self._bodies = Bodies(most=settings.max_bodies)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        own = Body(self._bodies, self._settings.max_body, self._settings.body_timeout)
        try:
            return await self._asked(request, await own.read(request))
        except RequestError as error:
            return _problem(error.status, error.kind, error.message, error.headers)
        finally:
            own.release()

    async def _asked(self, request: Request, body: bytes) -> Response:
        """Return the answer of a replica."""
        model = request.headers.get("serve_multiplexed_model_id", "")
        replica = self._replica.options(method_name="exchange", stream=True, multiplexed_model_id=model)
        asked = (request.method, request.url.path, request.scope["query_string"], request.scope["headers"], body)
        end = time.monotonic() + self._patience
        tries = 1
        while True:
            try:
                answer = await _answer(replica.remote(*asked))
                answer.headers[TRIES] = str(tries)
                return answer
            except BackPressureError:
                return _problem(429, "overloaded", "all replicas are full", {"Retry-After": "1"})
            except _LOST as error:
                if time.monotonic() > end:
                    return _problem(503, "lost", "no replica answers", {"Retry-After": "5"})
                log.warning("a replica was lost, and its request is asked again: %s", type(error).__name__)
                await asyncio.sleep(_PAUSE)
                tries += 1


async def _answer(messages: Any) -> Response:
    """Return a whole answer, or one that streams, once its first piece is there."""
    start = await anext(messages)
    first = await anext(messages)
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    if names.get("content-type", "").startswith("text/event-stream"):
        return StreamingResponse(_rest(first, messages), start["status"], names)
    parts = [first["body"], *[message["body"] async for message in messages]]
    return Response(b"".join(parts), start["status"], names)


async def _rest(first: Message, messages: Any) -> AsyncIterator[bytes]:
    """Yield a stream; where it is broken off, its last event says so, as a text cannot be begun twice."""
    yield first["body"]
    try:
        async for message in messages:
            yield message["body"]
    except _LOST:
        yield b'data: {"error": {"message": "the replica was lost within the text", "type": "lost"}}\n\n'


def _problem(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": message, "error_type": kind})
    return Response(body, status, dict(headers or {}), "application/json")
