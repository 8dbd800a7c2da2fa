"""OpenAI's protocol: embeddings, completions, chats and the list of models.

Source: https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response

from optimum_serve.abilities import SENTENCE
from optimum_serve.endpoints import Call, Endpoint, json_response
from optimum_serve.errors import RequestError, invalid
from optimum_serve.protocols.openai_forms import ChatRequest, CompletionRequest, Usage, WritingAnswer
from optimum_serve.protocols.openai_writing import chat, completions
from optimum_serve.protocols.texts import Given, in_base64, rows_of

_NAME = "OpenAI"


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for embeddings: of a text or several, or of their ids."""

    input: Given
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
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


def render(problem: RequestError) -> dict[str, Any]:
    """Return a problem as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.field or None, "code": problem.kind}}


async def _embeddings(call: Call) -> Response:
    body: EmbeddingsRequest = call.body
    model = call.server.chosen(call, body.model, lambda model: model.embeds, "embeds texts")
    found = await rows_of(model, body.input, SENTENCE, name="input")
    rows = [_cut(row, body.dimensions or model.dimensions or len(row)) for row in found.values]
    form = in_base64 if body.encoding_format == "base64" else _in_floats
    data = [Embedding(embedding=form(row), index=index) for index, row in enumerate(rows)]
    usage = Usage(prompt_tokens=found.tokens, total_tokens=found.tokens)
    return json_response(EmbeddingsAnswer(data=data, model=model.name, usage=usage))


def _cut(row: Any, dimensions: int) -> Any:
    """Return a vector of length 1, as OpenAI gives it, of the dimensions asked for."""
    if dimensions > len(row):
        raise invalid(f"dimensions is {dimensions}, and the model has {len(row)}", field="dimensions")
    row = row[:dimensions].astype("<f4")  # before the length is taken: squares leave the range of 16 bits
    length = float(np.linalg.norm(row))
    return row / length if length else row


def _in_floats(row: Any) -> Any:
    return row.tolist()


async def _models(call: Call) -> Response:
    return json_response(ModelList(data=[_card(name) for name in call.server.models]))


async def _model(call: Call) -> Response:
    return json_response(_card(call.server.named(call, call.path["model"]).name))


def _card(name: str) -> ModelCard:
    return ModelCard(id=name, created=0)


def _endpoint(method: str, path: str, answer: Any, summary: str, takes: Any, gives: Any) -> Endpoint:
    return Endpoint(
        method=method, path=path, answer=answer, summary=summary, protocol=_NAME, takes=takes, gives=gives,
        render=render, statuses={413: 400, 422: 400, 501: 400},
    )  # fmt: skip


ENDPOINTS = (
    *(
        _endpoint("POST", f"{version}/embeddings", _embeddings, "Embed texts", EmbeddingsRequest, EmbeddingsAnswer)
        for version in ("/v1", "")  # text-embeddings-inference has both
    ),
    _endpoint("POST", "/v1/completions", completions, "Go on from a text", CompletionRequest, WritingAnswer),
    _endpoint("POST", "/v1/chat/completions", chat, "Answer a chat", ChatRequest, WritingAnswer),
    _endpoint("GET", "/v1/models", _models, "List the models", None, ModelList),
    _endpoint("GET", "/v1/models/{model:path}", _model, "Describe a model", None, ModelCard),
)
