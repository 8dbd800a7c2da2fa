"""The protocol of text-embeddings-inference: embeddings, scores of texts and pairs, tokens.

Each path is there a second time under /models/NAME, for servers of several models. Source:
https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response

from optimum_serve.endpoints import Call, Endpoint, decoded, json_response
from optimum_serve.errors import RequestError, invalid
from optimum_serve.protocols.classes import Score, classes
from optimum_serve.protocols.media import EncodedFile, classify_encoded, classify_files, is_file, takes_files
from optimum_serve.serving import LOGITS, SENTENCE, ServedModel, Text

_NAME = "text-embeddings-inference"
Array = np.ndarray[Any, Any]
Body = TypeVar("Body")


class EmbedRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for embeddings."""

    inputs: str | list[str]
    truncate: bool = False
    truncation_direction: str = "right"
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class PredictRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the classes of a text, of a pair of texts, or of several (each in a list of its own).

    Attributes:
        function_to_apply: the function on the logits; by default as the model states.
        top_k: the number of classes to return; None: all.
    """

    inputs: str | list[str | list[str]]
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: str = "right"


class RerankRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request to order texts by what they say to a question."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation_direction: str = "right"


class SimilarityInputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the similarity of sentences."""

    inputs: SimilarityInputs


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the tokens of texts."""

    inputs: str | list[str]
    prompt_name: str | None = None
    add_special_tokens: bool = True


class Rank(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The place of a text in the request, and its score."""

    index: int
    score: float
    text: str | None = None


class Token(msgspec.Struct, kw_only=True):
    """A token by its number."""

    id: int


_PREDICT, _ANY = msgspec.json.Decoder(PredictRequest), msgspec.json.Decoder(dict[str, Any])


def _check_side(direction: str) -> None:
    if direction.lower() != "right":
        raise invalid(f"truncation_direction is {direction!r}, and texts are cut on the right only", "not_supported")


def _prompt(model: ServedModel, name: str | None) -> str:
    if name is None:
        return ""
    prompts = model.model.prompts
    if name not in prompts:
        known = ", ".join(map(repr, prompts)) or "none"
        raise invalid(f"the model has no prompt named {name!r}; its prompts are {known}")
    return prompts[name]


async def _embed(call: Call) -> Response:
    body: EmbedRequest = call.body
    _check_side(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: model.embeds, "embeds texts")
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not texts:
        raise invalid("inputs is empty", "empty")
    width = model.outputs[SENTENCE][-1]
    if body.dimensions is not None and isinstance(width, int) and body.dimensions > width:
        raise invalid(f"dimensions is {body.dimensions}, and the model has {width}")
    found = await model.rows(texts, SENTENCE, prompt=_prompt(model, body.prompt_name), truncate=body.truncate)
    rows = np.stack(found.values)[:, : body.dimensions]
    return json_response((_unit(rows) if body.normalize else rows).tolist())


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


async def _similarity(call: Call) -> Response:
    body: SimilarityInputs = call.body.inputs
    model = call.server.chosen(call, None, lambda model: model.embeds, "embeds texts")
    if not body.sentences:
        raise invalid("sentences is empty", "empty")
    found = await model.rows([body.source_sentence, *body.sentences], SENTENCE)
    rows = np.stack(found.values)
    return json_response(model.model.similarity(rows[:1], rows[1:])[0].tolist())


async def _predict(call: Call) -> Response:
    if is_file(call.request):
        return await classify_files(call)
    answers, is_one = await _predicted(call, decoded(_PREDICT, call.body))
    return json_response(answers[0] if is_one else answers)


async def _predicted(call: Call, body: PredictRequest) -> tuple[list[list[Score]], bool]:
    """Return the classes of every input, and whether there is one input, outside of a list."""
    _check_side(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: model.classifies and model.takes_text, "classifies texts")
    texts, is_one = _texts_of(body.inputs)
    rows = await _logits(model, texts, truncate=body.truncate)
    function = "none" if body.raw_scores else body.function_to_apply
    return [classes(model, row, function)[: body.top_k] for row in rows], is_one


def _texts_of(inputs: str | list[str | list[str]]) -> tuple[list[Text], bool]:
    """Return the texts and pairs of a request, and whether it is one: a text, or a pair in a list."""
    if isinstance(inputs, str):
        return [inputs], True
    if inputs and all(isinstance(item, str) for item in inputs):
        if len(inputs) > 2:
            raise invalid("inputs is a list of texts: put each into a list of its own, [[text], …]")
        return [tuple(inputs) if len(inputs) == 2 else inputs[0]], True  # type: ignore[list-item]
    found: list[Text] = []
    for item in inputs:
        parts = [item] if isinstance(item, str) else item
        if not 1 <= len(parts) <= 2:
            raise invalid(f"an input has {len(parts)} texts: one, or a pair")
        found.append((parts[0], parts[1]) if len(parts) == 2 else parts[0])
    if not found:
        raise invalid("inputs is empty", "empty")
    return found, False


async def _logits(model: ServedModel, texts: Sequence[Text], *, truncate: bool) -> list[Array]:
    """Return the logits of texts and of pairs, which are tokenized apart."""
    rows: list[Any] = [None] * len(texts)
    for kind in (str, tuple):
        places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
        if places:
            found = await model.rows([texts[place] for place in places], LOGITS, truncate=truncate)
            for place, row in zip(places, found.values, strict=True):
                rows[place] = row
    return rows


async def _rerank(call: Call) -> Response:
    body: RerankRequest = call.body
    _check_side(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: model.reranks, "scores pairs of texts")
    if not body.texts:
        raise invalid("texts is empty", "empty")
    found = await model.rows([(body.query, text) for text in body.texts], LOGITS, truncate=body.truncate)
    logits = np.stack(found.values)[:, 0]
    scores = logits if body.raw_scores else 1 / (1 + np.exp(-logits))
    order = np.argsort(-logits, kind="stable").tolist()
    texts = body.texts if body.return_text else [None] * len(order)
    return json_response([Rank(index=place, score=float(scores[place]), text=texts[place]) for place in order])


async def _sparse(call: Call) -> Response:
    raise RequestError(status=424, kind="backend", message="no model here gives sparse embeddings")


async def _tokenize(call: Call) -> Response:
    body: TokenizeRequest = call.body
    model = call.server.chosen(call, None, lambda model: model.takes_text, "takes texts")
    if not body.add_special_tokens:
        raise invalid("add_special_tokens is false, and texts are tokenized as the model takes them", "not_supported")
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    found = await model.tokens(texts, _prompt(model, body.prompt_name))
    return json_response([[Token(id=number) for number in ids] for ids in found])


async def _info(call: Call) -> Response:
    model = call.server.chosen(call, None, lambda model: True, "is there")
    settings = call.server.settings
    return json_response(
        {
            "model_id": model.name,
            "model_dtype": model.model.manifest.precision,
            "model_type": model.kind,
            "max_input_length": model.longest,
            "max_concurrent_requests": settings.max_queue,
            "max_batch_tokens": settings.max_batch_tokens,
            "max_batch_requests": settings.max_batch_items,
            "max_client_batch_size": settings.max_inputs,
            "backend": model.model.backend,
        }
    )


async def _any(call: Call) -> Response:
    """Answer as the hub's inference API does: what the model does, at its own address."""
    if is_file(call.request):
        return await classify_files(call)
    model = call.server.chosen(call, None, lambda model: model.embeds or model.classifies, "embeds or classifies")
    body = _flat(decoded(_ANY, call.body))
    if takes_files(model):
        return await classify_encoded(call, _converted(body, EncodedFile))
    if model.embeds and isinstance(body.get("inputs"), dict):
        call.body = _converted(body, SimilarityRequest)
        return await _similarity(call)
    if model.embeds:
        call.body = _converted(body, EmbedRequest)
        return await _embed(call)
    answers, _ = await _predicted(call, _converted(body, PredictRequest))
    return json_response(answers)


def _flat(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body with its parameters beside its inputs, where the hub's client puts them below."""
    parameters = body.pop("parameters", None) or {}
    if not isinstance(parameters, dict):
        raise invalid("parameters is no object")
    return {**{name: value for name, value in parameters.items() if value is not None}, **body}


def _converted(body: dict[str, Any], kind: type[Body]) -> Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


Answer = Callable[[Call], Awaitable[Response]]
_PATHS: tuple[tuple[str, str, Answer, str, Any, Any], ...] = (
    ("POST", "/embed", _embed, "Embed texts", EmbedRequest, list[list[float]]),
    ("POST", "/predict", _predict, "Classify texts, pictures or sounds", bytes, list[Score]),
    ("POST", "/rerank", _rerank, "Order texts by a question", RerankRequest, list[Rank]),
    ("POST", "/similarity", _similarity, "Compare sentences", SimilarityRequest, list[float]),
    ("POST", "/embed_sparse", _sparse, "Embed texts sparsely", EmbedRequest, None),
    ("POST", "/tokenize", _tokenize, "Return the tokens of texts", TokenizeRequest, list[list[Token]]),
    ("GET", "/info", _info, "Describe the model", None, dict[str, Any]),
)
ENDPOINTS = (
    *(
        Endpoint(
            method=method, path=prefix + path, answer=answer, summary=summary, protocol=_NAME, takes=takes, gives=gives,
            json=PredictRequest if takes is bytes else None, files=takes is bytes,
        )
        for prefix in ("", "/models/{model}")
        for method, path, answer, summary, takes, gives in _PATHS
    ),
    *(
        Endpoint(
            method="POST", path=path, answer=_any, summary="Embed or classify, as the model does", protocol=_NAME,
            takes=bytes,
            json=PredictRequest,
            files=True,
        )
        for path in ("/", "/models/{model}")
    ),
)  # fmt: skip
