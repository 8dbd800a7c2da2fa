"""OpenAI's protocol: embeddings, completions, chats and the list of models.

Source: https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from starlette.responses import Response

from optimum_serve.endpoints import Call, Endpoint, json_response
from optimum_serve.errors import RequestError, invalid
from optimum_serve.protocols.openai_forms import Usage, several
from optimum_serve.protocols.openai_writing import ChatRequest, CompletionRequest, WritingAnswer, chat, completions
from optimum_serve.serving import SENTENCE, ServedModel

_NAME = "OpenAI"


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for embeddings: of a text or several, or of their ids."""

    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """One embedding: floats, or their bytes (float32, little endian) in base64."""

    embedding: Any
    index: int
    object: str = "embedding"


class EmbeddingsAnswer(msgspec.Struct, kw_only=True):
    """The embeddings of all inputs."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: str = "list"


class ModelCard(msgspec.Struct, kw_only=True):
    """A model that is served."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "optimum-serve"


class ModelList(msgspec.Struct, kw_only=True):
    """All models that are served."""

    data: list[ModelCard]
    object: str = "list"


def _render(problem: RequestError) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": problem.kind}}


async def _embeddings(call: Call) -> Response:
    body: EmbeddingsRequest = call.body
    model = call.server.chosen(call, body.model, lambda model: model.embeds, "embeds texts")
    given = several(body.input, "input")
    if isinstance(given[0], str):
        found = await model.rows(given, SENTENCE)
    else:
        _check_frame(model, given)
        found = await model.run([{"input_ids": ids} for ids in given], SENTENCE, [len(ids) for ids in given])
    rows = [_cut(row, body.dimensions) for row in found.values]
    form = _in_base64 if body.encoding_format == "base64" else _in_floats
    data = [Embedding(embedding=form(row), index=index) for index, row in enumerate(rows)]
    usage = Usage(prompt_tokens=found.tokens, total_tokens=found.tokens)
    return json_response(EmbeddingsAnswer(data=data, model=model.name, usage=usage))


def _check_frame(model: ServedModel, given: Sequence[Sequence[int]]) -> None:
    """Refuse ids that another tokenizer made, or this one without the ids that the model was trained with."""
    before, behind = model.frame
    for ids in given:
        if tuple(ids[: len(before)]) != before or tuple(ids[len(ids) - len(behind) :]) != behind:
            raise invalid(
                f"ids of a text do not begin with {list(before)} and end with {list(behind)}, as the tokenizer of "
                f"model {model.name!r} makes them: send texts, or such ids "
                "(LangChain: check_embedding_ctx_length=False)"
            )


def _cut(row: Any, dimensions: int | None) -> Any:
    """Return a vector of length 1, as OpenAI gives it, of the dimensions asked for."""
    if dimensions is not None:
        if not 1 <= dimensions <= len(row):
            raise invalid(f"dimensions is {dimensions}, and the model has {len(row)}")
        row = row[:dimensions]
    length = float(np.linalg.norm(row))
    return (row / length if length else row).astype("<f4")


def _in_floats(row: Any) -> Any:
    return row.tolist()


def _in_base64(row: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()


async def _models(call: Call) -> Response:
    return json_response(ModelList(data=[_card(name) for name in call.server.models]))


async def _model(call: Call) -> Response:
    return json_response(_card(call.server.named(call, call.path["model"]).name))


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, created=0)


def _endpoint(method: str, path: str, answer: Any, summary: str, takes: Any, gives: Any) -> Endpoint:
    return Endpoint(
        method=method, path=path, answer=answer, summary=summary, protocol=_NAME, takes=takes, gives=gives,
        render=_render, statuses={413: 400, 422: 400},
    )  # fmt: skip


ENDPOINTS = (
    _endpoint("POST", "/v1/embeddings", _embeddings, "Embed texts", EmbeddingsRequest, EmbeddingsAnswer),
    _endpoint("POST", "/v1/completions", completions, "Go on from a text", CompletionRequest, WritingAnswer),
    _endpoint("POST", "/v1/chat/completions", chat, "Answer a chat", ChatRequest, WritingAnswer),
    _endpoint("GET", "/v1/models", _models, "List the models", None, ModelList),
    _endpoint("GET", "/v1/models/{model:path}", _model, "Describe a model", None, ModelCard),
)
