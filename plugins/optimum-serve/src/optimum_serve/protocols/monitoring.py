"""The server's own paths of monitoring: the traffic, and tuning for it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from optimum_core.types import Traffic
from optimum_serve.endpoints import Call, Endpoint, json_response

_NAME = "server"


class RetuneRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The model to tune; the only one needs no name."""

    model: str = ""


class RetuneAnswer(msgspec.Struct):
    """The state of the models that were tuned."""

    models: dict[str, str]


async def _traffic(call: Call) -> Response:
    watched = [model.watch for model in call.server.models.values() if model.is_ready]
    return Response(
        Traffic(models=tuple(watch.traffic.since() for watch in watched)).to_json(), media_type="application/json"
    )


async def _retune(call: Call) -> Response:
    model = call.server.chosen(call, call.body.model, lambda model: True, "answers")
    call.server.retuner.begin(model)
    return json_response(RetuneAnswer({model.name: call.server.retuner.states[model.name]}), 202)


async def _states(call: Call) -> Response:
    return json_response(RetuneAnswer(call.server.retuner.states))


def _endpoint(method: str, path: str, answer: Any, summary: str, takes: Any = None, gives: Any = None) -> Endpoint:
    return Endpoint(method=method, path=path, answer=answer, summary=summary, protocol=_NAME, takes=takes, gives=gives)


ENDPOINTS = (
    _endpoint("GET", "/traffic.json", _traffic, "Shapes of calls and requests since the start", gives=dict[str, Any]),
    _endpoint("GET", "/retune", _states, "Models that are or were tuned for their traffic", gives=RetuneAnswer),
    _endpoint("POST", "/retune", _retune, "Tune a model for its traffic", RetuneRequest, RetuneAnswer),
)
