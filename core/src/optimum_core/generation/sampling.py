"""The choice of the next tokens from their scores, by the rules of transformers, on numpy.

The order is transformers': biases, repetition penalty, temperature, top-k, top-p, min-p. Without draws, the tokens are
equal to transformers'; a draw uses numpy's generator, so that a seed gives other tokens than torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from optimum_core.generation.settings import Settings
from optimum_core.types.arrays import NDArray

#: From the ids so far [rows, length] and the scores [rows, vocabulary] to the next ids [rows].
Choose = Callable[[NDArray, NDArray], NDArray]

#: Temperatures below are taken for it, and those above its inverse for that: 32 bits hold neither them nor the scores.
_COLDEST = 1e-30


def chooser(settings: Settings) -> Choose:
    """Return the function that chooses the next token of every row."""
    penalty = settings.repetition_penalty or 1.0
    rng = np.random.default_rng(settings.seed)

    def choose(ids: NDArray, scores: NDArray) -> NDArray:
        if penalty != 1.0:
            scores = penalized(ids, scores, penalty)
        if not settings.do_sample:
            likeliest: NDArray = scores.argmax(-1)
            return likeliest
        return drawn(shaped(scores, settings), rng)

    return choose


def allowed(scores: NDArray, settings: Settings, number: int, length: int, ids: NDArray) -> NDArray:
    """Return scores with their biases and penalties, in which tokens that may not come now are minus infinity.

    Args:
        settings: for a prompt of this length.
        number: of the new token, from 1.
        length: the tokens before the new ones.
        ids: the tokens so far [rows, length so far], padding included; those of the prompt suffice where
            `needs_history` says so.
    """
    is_last = number == settings.max_new_tokens
    forced = (settings.forced_bos,) if number == length == 1 and settings.forced_bos is not None else ()
    if forced or (is_last and settings.forced_eos):
        only = np.full_like(scores, -np.inf)
        only[:, list(forced or settings.forced_eos)] = 0
        return only
    scores = _weighed(scores, settings, ids[:, length:])
    first = 2 if length == 1 and settings.forced_bos is not None else 1
    never = [*settings.suppress_tokens, *(settings.begin_suppress_tokens if number == first else ())]
    if number <= (settings.min_new_tokens or 0):
        never += settings.eos
    never = [token for token in never if 0 <= token < scores.shape[1]]  # -1 stands for no token
    barred = list(_barred(ids, settings))
    if never or barred:
        scores = scores.copy()
        scores[:, never] = -np.inf
    for rows, token in barred:
        scores[rows, token] = -np.inf
    return scores


def needs_history(settings: Settings) -> bool:
    """Whether the choice of a token depends on those that came before."""
    repeats = settings.repetition_penalty not in (None, 1.0) or bool(settings.no_repeat_ngram_size)
    return repeats or bool(settings.bad_words_ids or settings.presence_penalty or settings.frequency_penalty)


def _weighed(scores: NDArray, settings: Settings, new: NDArray) -> NDArray:
    """Return scores with the biases of tokens, and less the penalties of those in the new text.

    A bias for a token that the model does not have changes nothing.

    Source: https://platform.openai.com/docs/api-reference/chat/create; only the new text counts.
    """
    presence, frequency = settings.presence_penalty, settings.frequency_penalty
    if not (presence or frequency or settings.logit_bias):
        return scores
    scores = scores.astype(np.float32)
    for token, bias in settings.logit_bias:
        if 0 <= token < scores.shape[1]:
            scores[:, token] += bias
    if presence or frequency:
        for row, ids in zip(scores, new, strict=True):
            tokens, counts = np.unique(ids, return_counts=True)
            row[tokens] -= presence + frequency * counts
    return scores


def _barred(ids: NDArray, settings: Settings) -> Iterator[tuple[NDArray, Any]]:
    """Yield rows, and the tokens that may not come in them after these ids.

    Padding counts as a token, as it does in transformers.
    """
    size = settings.no_repeat_ngram_size
    if size and ids.shape[1] >= size:
        windows = sliding_window_view(ids, size, axis=1)
        ending = ids[:, ids.shape[1] + 1 - size :][:, None]
        rows, places = (windows[..., :-1] == ending).all(-1).nonzero()
        yield rows, windows[rows, places, -1]
    for *before, token in settings.bad_words_ids:
        if (not before and token in settings.eos) or len(before) > ids.shape[1]:
            continue
        yield (ids[:, ids.shape[1] - len(before) :] == np.array(before, ids.dtype)).all(-1).nonzero()[0], token


def penalized(ids: NDArray, scores: NDArray, penalty: float) -> NDArray:
    """Return scores in which tokens that have occurred are less likely (Keskar et al., CTRL, arXiv:1909.05858)."""
    found = np.take_along_axis(scores, ids, axis=1)
    changed = scores.copy()
    np.put_along_axis(changed, ids, np.where(found < 0, found * penalty, found / penalty), axis=1)
    return changed


def shaped(scores: NDArray, settings: Settings) -> NDArray:
    """Return scores after temperature, top-k, top-p and min-p; what cannot be drawn is minus infinity."""
    scores = scores.astype(np.float32) / np.float32(np.clip(settings.temperature or 1.0, _COLDEST, 1 / _COLDEST))
    if settings.top_k:
        least = np.partition(scores, -min(settings.top_k, scores.shape[-1]), axis=-1)
        bound = least[:, -min(settings.top_k, scores.shape[-1])][:, None]
        scores = np.where(scores < bound, -np.inf, scores)
    if settings.top_p is not None and settings.top_p < 1:
        order = np.argsort(scores, axis=-1, kind="stable")
        ranked = softmax(np.take_along_axis(scores, order, axis=-1)).cumsum(-1)
        removed = ranked <= np.float32(1 - settings.top_p)
        removed[:, -1] = False
        hidden = np.zeros_like(removed)
        np.put_along_axis(hidden, order, removed, axis=-1)
        scores = np.where(hidden, -np.inf, scores)
    if settings.min_p:
        shares = softmax(scores)
        scores = np.where(shares < settings.min_p * shares.max(-1, keepdims=True), -np.inf, scores)
    return scores


def drawn(scores: NDArray, rng: np.random.Generator) -> NDArray:
    """Return one token for each row, drawn by the softmax of its scores."""
    bounds = softmax(scores).astype(np.float64).cumsum(-1)
    points = rng.random((len(scores), 1)) * bounds[:, -1:]
    found: NDArray = (bounds <= points).sum(-1)
    return found


def softmax(scores: NDArray) -> NDArray:
    """Return the softmax along the last axis."""
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    made: NDArray = shares / shares.sum(-1, keepdims=True)
    return made
