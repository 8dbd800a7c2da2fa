"""The log probabilities of tokens as they are chosen, and the bytes of single tokens."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from optimum_core.types import ScoredPiece, ScoredToken

Array = np.ndarray[Any, Any]
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_INCOMPLETE = "\ufffd"


class Scoring:
    """The log probabilities of the tokens of one step.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        count: likeliest tokens to keep of each place.
    """

    def __init__(self, tokenizer: Any, count: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._rows: list[tuple[ScoredToken, tuple[ScoredToken, ...]]] = []

    def note(self, scores: Array, tokens: Array) -> None:
        """Take the scores of a step [rows, vocabulary] and the tokens that were chosen [rows]."""
        logs = log_softmax(scores)
        tops = likeliest(logs, self._count)
        self._rows = [
            (self._scored(row, int(token)), tuple(self._scored(row, int(other)) for other in top))
            for row, token, top in zip(logs, tokens, tops, strict=True)
        ]

    def _scored(self, logs: Array, token: int) -> ScoredToken:
        return ScoredToken(token=token, data=token_bytes(self._tokenizer, token), logprob=float(logs[token]))

    def scored(self, row: int, piece: str) -> ScoredPiece:
        """Return a piece of a row with the token of this step."""
        token, others = self._rows[row]
        return ScoredPiece(piece, scored=token, likeliest=others)


def log_softmax(scores: Array) -> Array:
    """Return the logarithm of the softmax along the last axis, in 64 bits."""
    scores = scores.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    made: Array = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return made


def likeliest(scores: Array, count: int) -> Array:
    """Return the indices of the greatest scores of each row, the greatest first; of equal ones, the lower id."""
    count = min(count, scores.shape[-1])
    if not count:
        return np.zeros((len(scores), 0), np.int64)
    found = np.sort(np.argpartition(-scores, count - 1, axis=-1)[:, :count])
    order = np.argsort(-np.take_along_axis(scores, found, axis=-1), axis=-1, kind="stable")
    made: Array = np.take_along_axis(found, order, axis=-1)
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
