"""The protocol of text-embeddings-inference: embeddings, scores of texts and pairs, and the description of the model.

Tokens are in `tei_tokens`, and the order of texts in `reranking`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response

from optimum_core.types.arrays import NDArray
from optimum_serve.abilities import LOGITS, SENTENCE
from optimum_serve.endpoints import Call, Endpoint, decoded, json_response
from optimum_serve.errors import empty, invalid
from optimum_serve.limits import check_entries
from optimum_serve.protocols.classes import Score, classes
from optimum_serve.protocols.media import EncodedFile, answer_encoded, answer_files, is_file, takes_files
from optimum_serve.protocols.reranking import RerankRequest, rerank
from optimum_serve.protocols.tei_forms import endpoints, prompt_of, side_of
from optimum_serve.protocols.texts import Given, in_base64, rows_of
from optimum_serve.serving import TOKENIZING_THREADS, ServedModel, Text
from optimum_serve.sparse import SPARSE
from optimum_serve.tokenizing import Side
from optimum_serve.version import __version__

#: Names of precisions in the protocol.
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
#: Outputs with a vector for each token, by the kinds of encoders that have them.
_TOKENS = ("token_embeddings", "last_hidden_state")
Body = TypeVar("Body")


class EmbedAllRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for a vector of each token."""

    inputs: Given
    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None


class EmbedRequest(EmbedAllRequest, kw_only=True, forbid_unknown_fields=True):
    """A request for embeddings: of a text or several, or of their ids."""

    normalize: bool = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Weight(msgspec.Struct, kw_only=True):
    """The weight of a word of the vocabulary in a sparse embedding."""

    index: int
    value: float


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
    truncate: bool | None = None
    truncation_direction: str | None = None


class SimilarityInputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The way in which sentences are read."""

    truncate: bool | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the similarity of sentences."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class Info(msgspec.Struct, kw_only=True):
    """The model and the limits of the server, with the names of text-embeddings-inference.

    Attributes:
        model_type: the kind of the model, and under its name the pooling of an encoder or the labels of a classifier.
        model_sha, sha, docker_label: not known here.
    """

    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_type: dict[str, dict[str, Any]]
    max_concurrent_requests: int
    max_input_length: int | None
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None
    backend: str


_PREDICT, _ANY = msgspec.json.Decoder(PredictRequest), msgspec.json.Decoder(dict[str, Any])


async def _embed(call: Call) -> Response:
    body: EmbedRequest = call.body
    side = side_of(body.truncation_direction)
    model, prompt = _encoder(call, body.prompt_name)
    given = (body.inputs, SENTENCE)
    found = await rows_of(model, *given, name="inputs", prompt=prompt, truncate=body.truncate, side=side)
    rows = np.stack(found.values)
    if body.dimensions is not None and body.dimensions > rows.shape[1]:
        raise invalid(f"dimensions is {body.dimensions}, and the model has {rows.shape[1]}")
    rows = rows[:, : body.dimensions or model.dimensions]
    rows = _unit(rows) if body.normalize else rows
    return json_response([in_base64(row) for row in rows] if body.encoding_format == "base64" else rows.tolist())


async def _embed_all(call: Call) -> Response:
    body: EmbedAllRequest = call.body
    side = side_of(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: bool(_tokens_of(model)), "gives a vector for each token")
    given = (body.inputs, _tokens_of(model))
    prompt = prompt_of(model, body.prompt_name)
    found = await rows_of(model, *given, name="inputs", prompt=prompt, truncate=body.truncate, side=side)
    return json_response([row.tolist() for row in found.values])


def _tokens_of(model: ServedModel) -> str:
    """Return the output with a vector for each token; empty: there is none."""
    return next((name for name in _TOKENS if model.takes_text and len(model.outputs.get(name, ())) == 3), "")


def _encoder(call: Call, prompt_name: str | None) -> tuple[ServedModel, str | None]:
    """Return the model that embeds, and the prompt that was named."""
    model = call.server.chosen(call, None, lambda model: model.embeds, "embeds texts")
    return model, prompt_of(model, prompt_name)


def _unit(rows: NDArray) -> NDArray:
    rows = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)  # squares leave the range of 16 bits
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


async def _similarity(call: Call) -> Response:
    body: SimilarityInputs = call.body.inputs
    how: SimilarityParameters = call.body.parameters or SimilarityParameters()
    side = side_of(how.truncation_direction)
    model, prompt = _encoder(call, how.prompt_name)
    if not body.sentences:
        raise empty("sentences")
    texts = [body.source_sentence, *body.sentences]
    found = await model.rows(texts, SENTENCE, prompt=prompt, truncate=how.truncate, side=side)
    rows = np.stack(found.values)[:, : model.dimensions]
    return json_response(model.model.similarity(rows[:1], rows[1:])[0].tolist())


async def _predict(call: Call) -> Response:
    if is_file(call):
        return await answer_files(call)
    answers, is_one = await _predicted(call, decoded(_PREDICT, call.body))
    return json_response(answers[0] if is_one else answers)


async def _predicted(call: Call, body: PredictRequest) -> tuple[list[list[Score]], bool]:
    """Return the classes of every input, and whether there is one input, outside of a list."""
    side = side_of(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: model.classifies and model.takes_text, "classifies texts")
    texts, is_one = _texts_of(body.inputs)
    rows = await _logits(model, texts, truncate=body.truncate, side=side)
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
        raise empty("inputs")
    return found, False


async def _logits(
    model: ServedModel, texts: Sequence[Text], *, truncate: bool | None, side: Side | None
) -> list[NDArray]:
    """Return the logits of texts and of pairs, which are tokenized apart."""
    rows: list[Any] = [None] * len(texts)
    for kind in (str, tuple):
        places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
        if places:
            found = await model.rows([texts[place] for place in places], LOGITS, truncate=truncate, side=side)
            for place, row in zip(places, found.values, strict=True):
                rows[place] = row
    return rows


async def _embed_sparse(call: Call) -> Response:
    body: EmbedAllRequest = call.body
    side = side_of(body.truncation_direction)
    model = call.server.chosen(call, None, lambda model: model.vocabulary > 0, "gives sparse embeddings")
    prompt = prompt_of(model, body.prompt_name)
    found = await rows_of(model, body.inputs, SPARSE, name="inputs", prompt=prompt, truncate=body.truncate, side=side)
    check_entries(sum(map(len, found.values)))
    return json_response([[Weight(index=index, value=value) for index, value in row.tolist()] for row in found.values])


async def _info(call: Call) -> Response:
    model = call.server.chosen(call, None, lambda model: True, "is there")
    settings, manifest = call.server.settings, model.model.manifest
    return json_response(
        Info(
            model_id=model.name,
            model_dtype=manifest.quantized or _DTYPES.get(manifest.precision, manifest.precision),
            model_type={"embedding" if model.vocabulary else model.kind: _about(model)},
            max_concurrent_requests=settings.max_queue,
            max_input_length=model.longest,
            max_batch_tokens=settings.max_batch_tokens,
            max_batch_requests=settings.max_batch_items,
            max_client_batch_size=settings.max_inputs,
            auto_truncate=settings.auto_truncate,
            tokenization_workers=TOKENIZING_THREADS,
            version=__version__,
            backend=model.model.backend,
        )
    )


def _about(model: ServedModel) -> dict[str, Any]:
    if model.embeds:
        return {"pooling": _pooling(model.model.directory)}
    if model.vocabulary:
        return {"pooling": "splade"}
    if model.classifies:
        labels = model.labels
        return {
            "id2label": {str(number): label for number, label in labels.items()},
            "label2id": {label: number for number, label in labels.items()},
        }
    return {}


@cache
def _pooling(directory: Path) -> str:
    """Return the pooling of a sentence encoder, by the names of the protocol; several are joined by a plus."""
    file = directory / "1_Pooling" / "config.json"
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last_token"}
    prefix = "pooling_mode_"
    named = stated.get("pooling_mode")  # as sentence-transformers has it since its version 5
    modes: list[str] = named if isinstance(named, list) else [named] if named else []
    modes += [name.removeprefix(prefix) for name, value in stated.items() if name.startswith(prefix) and value is True]
    return "+".join(known.get(mode, mode) for mode in modes) or "model"


async def _any(call: Call) -> Response:
    """Answer as the hub's inference API does: what the model does, at its own address."""
    if is_file(call):
        return await answer_files(call)
    model = call.server.chosen(
        call, None, lambda model: model.embeds or model.classifies or model.captions, "embeds or classifies"
    )
    body = _flat(decoded(_ANY, call.body))
    if takes_files(model):
        return await answer_encoded(call, _converted(body, EncodedFile))
    if "query" in body:
        call.body = _converted(body, RerankRequest)
        return await rerank(call)
    if model.embeds and isinstance(body.get("inputs"), dict):
        inputs = body.pop("inputs")
        call.body = _converted({"inputs": inputs, "parameters": body}, SimilarityRequest)
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
    return {name: value for name, value in {**parameters, **body}.items() if value is not None}


def _converted(body: dict[str, Any], kind: type[Body]) -> Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


_PREDICTION: dict[str, Any] = {"json": PredictRequest, "files": True}
ENDPOINTS: tuple[Endpoint, ...] = (
    *endpoints("/embed", _embed, "Embed texts", EmbedRequest, list[list[float] | str]),
    *endpoints("/embed_all", _embed_all, "Embed every token", EmbedAllRequest, list[list[list[float]]]),
    *endpoints("/embed_sparse", _embed_sparse, "Embed texts sparsely", EmbedAllRequest, list[list[Weight]]),
    *endpoints("/similarity", _similarity, "Compare sentences", SimilarityRequest, list[float]),
    *endpoints(
        "/predict",
        _predict,
        "Classify texts, pictures or sounds, or write captions",
        bytes,
        list[Any],
        **_PREDICTION,
    ),
    *endpoints("/info", _info, "Describe the model", None, Info, method="GET"),
    *endpoints("/invocations", _any, "Embed or classify, as the model does (SageMaker)", bytes, **_PREDICTION),
    *endpoints("", _any, "Embed or classify, as the model does", bytes, **_PREDICTION),
)
