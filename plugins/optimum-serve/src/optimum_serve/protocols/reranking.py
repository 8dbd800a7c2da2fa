"""Texts in the order of what they say to a question: as text-embeddings-inference has it, and as Cohere and Jina do.

Clients of both send to /rerank: the former `texts`, the latter `documents`, and each gets an answer in its own form.
Sources: https://huggingface.github.io/text-embeddings-inference, https://docs.cohere.com/reference/rerank.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.responses import Response

from optimum_core.types.arrays import NDArray
from optimum_serve.abilities import LOGITS
from optimum_serve.endpoints import Call, Endpoint, json_response
from optimum_serve.errors import empty, invalid
from optimum_serve.protocols.classes import sigmoid
from optimum_serve.protocols.tei_forms import endpoints, side_of
from optimum_serve.serving import Rows, ServedModel
from optimum_serve.tokenizing import Side

_NAME = "Cohere"
Count = Annotated[int, Meta(ge=1)]


class Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text to order."""

    text: str


class _RankOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of Cohere's and Jina's form beside the texts.

    Attributes:
        top_n: the number of texts to return; None: all.
        return_documents: return the texts too.
        max_tokens_per_doc: tokens that a text is cut at, where it is beyond what the model takes.
        rank_fields: fields of documents; they have one.
        priority: accepted, and of no effect: requests are answered in order.
    """

    query: str
    model: str = ""
    top_n: Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Count | None = None
    rank_fields: list[str] | None = None
    priority: int | None = None


class RankRequest(_RankOptions, kw_only=True, forbid_unknown_fields=True):
    """A request in the form of Cohere and Jina.

    Attributes:
        documents: the texts; what is too long is cut, as there.
    """

    documents: list[str | Document]


class RerankRequest(_RankOptions, kw_only=True, forbid_unknown_fields=True):
    """A request in the form of text-embeddings-inference, with `texts`; or in that of Cohere, with `documents`."""

    texts: list[str] | None = None
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: str | None = None
    documents: list[str | Document] | None = None


class Rank(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The place of a text in the request, and its score."""

    index: int
    score: float
    text: str | None = None


class RankedDocument(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The place of a text in the request, and its score from 0 to 1."""

    index: int
    relevance_score: float
    document: Document | None = None


class RankAnswer(msgspec.Struct, kw_only=True):
    """Texts, those that say most to the question first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: dict[str, int]
    meta: dict[str, Any]


async def rerank(call: Call) -> Response:
    """Answer a request in either form."""
    body: RerankRequest = call.body
    if body.documents is not None:
        if body.texts is not None:
            raise invalid("texts and documents are there both: send one")
        own = ("raw_scores", "return_text", "truncate", "truncation_direction")
        if name := next((name for name in own if getattr(body, name)), None):
            raise invalid(f"{name} goes with texts, and documents came", "not_supported")
        names = [field.name for field in msgspec.structs.fields(RankRequest)]
        call.body = RankRequest(**{name: getattr(body, name) for name in names})
        return await _rank(call)
    if body.texts is None:
        raise invalid("there are neither texts nor documents")
    return await _rerank(call, body, body.texts)


async def _rerank(call: Call, body: RerankRequest, texts: list[str]) -> Response:
    if body.return_documents is not None or body.max_tokens_per_doc is not None or body.rank_fields:
        raise invalid("texts came with fields that go with documents", "not_supported")
    side = side_of(body.truncation_direction)
    if not texts:
        raise empty("texts")
    found = await _scored(_reranker(call, body.model), body.query, texts, truncate=body.truncate, side=side)
    logits = _logits(found)
    scores = logits if body.raw_scores else sigmoid(logits)
    order = _order(logits, body.top_n)
    named = texts if body.return_text else [None] * len(texts)
    return json_response([Rank(index=place, score=float(scores[place]), text=named[place]) for place in order])


async def _rank(call: Call) -> Response:
    body: RankRequest = call.body
    if not body.documents:
        raise empty("documents")
    if body.rank_fields not in (None, [], ["text"]):
        raise invalid("rank_fields has other fields than text", "not_supported")
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    model = _reranker(call, body.model)
    if body.max_tokens_per_doc is not None and body.max_tokens_per_doc < (model.longest or 0):
        why = f"max_tokens_per_doc is below {model.longest}, the length that the model takes and cuts at"
        raise invalid(f"{why}: leave it out", "not_supported")
    found = await _scored(model, body.query, texts, truncate=True)
    logits = _logits(found)
    scores = sigmoid(logits)
    results = [
        RankedDocument(
            index=place,
            relevance_score=float(scores[place]),
            document=Document(text=texts[place]) if body.return_documents else None,
        )
        for place in _order(logits, body.top_n)
    ]
    tokens = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    meta = {"tokens": {"input_tokens": found.tokens}}
    return json_response(
        RankAnswer(id=f"rerank-{uuid.uuid4().hex}", model=model.name, results=results, usage=tokens, meta=meta)
    )


def _reranker(call: Call, name: str) -> ServedModel:
    return call.server.chosen(call, name, lambda model: model.reranks, "scores pairs of texts")


async def _scored(
    model: ServedModel, query: str, texts: list[str], *, truncate: bool | None, side: Side | None = None
) -> Rows:
    return await model.rows([(query, text) for text in texts], LOGITS, truncate=truncate, side=side)


def _logits(found: Rows) -> NDArray:
    return np.stack(found.values)[:, 0]


def _order(logits: NDArray, most: int | None) -> list[int]:
    """Return places, the greatest first: of the logits, as shares near 1 are all the same."""
    return [int(place) for place in np.argsort(-logits, kind="stable")[:most]]


ENDPOINTS = (
    *endpoints(
        "/rerank", rerank, "Order texts by a question", RerankRequest, list[Rank] | RankAnswer
    ),
    *(
        Endpoint(
            method="POST", path=f"/{version}/rerank", answer=_rank, summary="Order documents by a question",
            protocol=_NAME, takes=RankRequest, gives=RankAnswer, statuses={413: 400, 422: 400, 501: 400},
        )
        for version in ("v1", "v2")
    ),
)  # fmt: skip
