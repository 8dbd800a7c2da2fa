"""Scores of pairs of texts by a cross-encoder, and ranking by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.errors import InputError, UnavailableError
from optimum_core.models.sources.sentences.activations import FUNCTIONS, name_of, sigmoid, softmax
from optimum_core.packages import present
from optimum_core.runtime.call_outputs import tensor_of
from optimum_core.runtime.embedding import TextModel
from optimum_core.runtime.items import check_rows, is_pair, listed_items
from optimum_core.types.arrays import NDArray

LOGITS = "logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """The arguments of one `predict`, apart from the pairs.

    Attributes:
        prompt: the text before the first text of every pair.
        activation: a function of logits, or the path of one; None: the sigmoid for one label, else none.
        softmax: whether the scores of several labels are turned into shares.
    """

    prompt: str | None = None
    batch_size: int = 32
    progress: bool = False
    activation: Callable[[Any], Any] | str | None = None
    softmax: bool = False


def scores(model: TextModel, given: Any, request: ScoreRequest) -> Any:
    """Return the score of a pair, or the scores of many pairs, in order; a number each where there is one label.

    Raises:
        InputError: it holds no pairs, or the activation is unknown.
    """
    if not hasattr(request.batch_size, "__index__") or request.batch_size < 1:
        raise InputError(model.who, f"batch_size is {request.batch_size!r}", "pass 1 or more")
    single = _is_pair(given)
    pairs = [given] if single else _many(given, model.who, "pairs of texts")
    for pair in pairs:
        if not _is_pair(pair):
            raise InputError(model.who, f"{pair!r} is no pair of texts", "pass pairs: (query, document)")
    run = model.run(pairs, (LOGITS,), batch_size=request.batch_size, progress=request.progress, prompt=request.prompt)
    found = _activated(run[LOGITS], request.activation, model.who)
    found = found[:, 0] if found.ndim > 1 and found.shape[-1] == 1 else found
    if request.softmax and found.ndim > 1:
        found = softmax(found)
    return found[0] if single else found


def _many(given: Any, who: str, what: str) -> list[Any]:
    """Return the items of a collection in order.

    Raises:
        InputError: it is one item, or has no rows.
    """
    check_rows(who, given)
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__iter__"):
        raise InputError(who, f"{type(given).__name__} came for {what}", f"pass a list of {what}")
    return list(given.tolist()) if hasattr(given, "tolist") else listed_items(given)


def _is_pair(given: Any) -> bool:
    return is_pair(given.tolist() if hasattr(given, "tolist") else given)


def _activated(logits: NDArray, activation: Any, who: str) -> NDArray:
    if activation is None:
        return sigmoid(logits) if logits.shape[-1] == 1 else logits
    if callable(activation):
        return _called(activation, logits)
    name = name_of(activation)
    if (known := FUNCTIONS.get(name)) is not None:
        return known(logits)
    if name and present("torch"):
        from optimum_core.models.sources.sentences.heads import activation_of

        return _called(activation_of(activation, who), logits)
    if name:
        raise UnavailableError(who, f"torch computes the model's activation {activation!r}", "pip install torch")
    why = f"the model's activation {activation!r} is unknown, and code of a directory is not run"
    raise InputError(who, why, "pass it: activation_fn=")


def _called(function: Callable[[Any], Any], logits: NDArray) -> NDArray:
    """Return what a user's function gives: one of torch takes tensors."""
    found = function(tensor_of(logits) if present("torch") else logits)
    return np.asarray(found.detach().cpu().numpy() if hasattr(found, "detach") else found)


def documents_of(given: Any, top_k: int | None, who: str) -> list[Any]:
    """Return the documents to rank, of which the `top_k` best are asked for.

    Raises:
        InputError: it is one text, or has no rows; or `top_k` is no number of documents.
    """
    if top_k is not None and (not hasattr(top_k, "__index__") or top_k < 0):
        raise InputError(who, f"top_k is {top_k!r}", "pass a number of documents, or None for all")
    return _many(given, who, "documents")


def ranked(found: NDArray, documents: Sequence[str] | None, top_k: int | None, who: str) -> list[dict[str, Any]]:
    """Return places and scores, the highest score first, with the documents where they are given.

    Raises:
        InputError: there are several scores for each pair.
    """
    if found.ndim > 1:
        why = f"it gives {found.shape[-1]} scores for each pair, by which documents cannot be ranked"
        raise InputError(who, why, "rank with a model of one label; fast.predict(pairs) gives all scores")
    order = np.argsort(-found, kind="stable")[:top_k]
    texts = {} if documents is None else dict(enumerate(documents))
    return [
        {"corpus_id": int(index), "score": float(found[index]), **({"text": texts[index]} if texts else {})}
        for index in order.tolist()
    ]
