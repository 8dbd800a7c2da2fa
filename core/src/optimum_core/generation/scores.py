"""The log probabilities of tokens as they are chosen, and the bytes of single tokens."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.types import ScoredPiece, ScoredToken
from optimum_core.types.arrays import NDArray

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_INCOMPLETE = "\ufffd"


def check_logprobs(logprobs: int | None, *, stream: bool) -> None:
    """Refuse log probabilities that no piece would bring.

    Raises:
        OptionError: the number is below zero, or the text does not come in pieces.
    """
    if logprobs is not None and (not stream or logprobs < 0):
        raise OptionError("logprobs", f"{logprobs} makes no sense here", "pass 0 or more, with stream=True")


class Scoring:
    """The log probabilities of the tokens of one step.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        count: likeliest tokens to keep of each place.
    """

    def __init__(self, tokenizer: Any, count: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._logs: NDArray = np.zeros((0, 0))
        self._tokens: NDArray = np.zeros(0, np.int64)
        self._tops: NDArray = np.zeros((0, 0), np.int64)

    def note(self, scores: NDArray, tokens: NDArray) -> None:
        """Take the scores of a step [rows, vocabulary] and the tokens that were chosen [rows]."""
        self._logs, self._tokens = log_softmax(scores), tokens
        self._tops = likeliest(self._logs, self._count)

    def scored(self, row: int, piece: str) -> ScoredPiece:
        """Return a piece of a row that goes on, with the token of this step: one that has ended has a padding id, which
        may be none of the vocabulary."""
        likeliest = tuple(self._scored(row, int(token)) for token in self._tops[row])
        return ScoredPiece(piece, scored=self._scored(row, int(self._tokens[row])), likeliest=likeliest)

    def _scored(self, row: int, token: int) -> ScoredToken:
        logprob = float(self._logs[row, token])
        return ScoredToken(token=token, data=token_bytes(self._tokenizer, token), logprob=logprob)


def log_softmax(scores: NDArray) -> NDArray:
    """Return the logarithm of the softmax along the last axis, in 64 bits."""
    scores = scores.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    made: NDArray = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return made


def likeliest(scores: NDArray, count: int) -> NDArray:
    """Return the indices of the greatest scores of each row, the greatest first; of equal ones, the lower id."""
    count = min(count, scores.shape[-1])
    if not count:
        return np.zeros((len(scores), 0), np.int64)
    found = np.sort(np.argpartition(-scores, count - 1, axis=-1)[:, :count])
    order = np.argsort(-np.take_along_axis(scores, found, axis=-1), axis=-1, kind="stable")
    made: NDArray = np.take_along_axis(found, order, axis=-1)
    return made


def token_bytes(tokenizer: Any, token: int) -> bytes | None:
    """Return the bytes that a token adds to a text; None: it is none of the tokenizer's, or a part of a character of
    which the bytes are not known."""
    piece = tokenizer.id_to_token(token)
    if piece is None:
        return None
    if byte := _BYTE.fullmatch(piece):
        return bytes.fromhex(byte[1])
    text = tokenizer.decode([token], skip_special_tokens=False)
    if _INCOMPLETE not in text:
        # Behind another token, as the first one loses the blank before it.
        twice = tokenizer.decode([token, token], skip_special_tokens=False)
        return bytes((twice[len(text) :] if twice.startswith(text) else text).encode())
    letters = _letters_of_bytes()
    return bytes(letters[letter] for letter in piece) if all(letter in letters for letter in piece) else None


@cache
def _letters_of_bytes() -> dict[str, int]:
    """Return the bytes by the letters that stand for them in the vocabularies of byte-level BPE, as GPT-2 has them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [number for number in range(256) if number not in plain]
    return {chr(number): number for number in plain} | {chr(256 + at): number for at, number in enumerate(others)}
