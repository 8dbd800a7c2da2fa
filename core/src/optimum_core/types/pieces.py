"""Prompts and texts, as they pass between core and what stands on it: ids, pieces of a text, and where it is cut."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: Whether texts that are too long are cut: True on the side that the tokenizer states, or on this one.
Cut = bool | Literal["left", "right"]


class TokenIds(tuple[int, ...]):
    """A prompt in ids, of which the text behind it is wanted: ids in arrays are answered by ids.

    Raises:
        TypeError: one is no whole number.

    >>> TokenIds([5, 7])
    (5, 7)
    """

    __slots__ = ()

    def __new__(cls, ids: Iterable[int] = ()) -> TokenIds:
        return super().__new__(cls, map(operator.index, ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedChat:
    """A chat with pictures as the inputs of its model, one row of ids: a prompt of `generate`.

    Attributes:
        inputs: arrays by name, as the model's processor makes them.
    """

    inputs: Mapping[str, Any]

    @property
    def length(self) -> int:
        """The number of its tokens, places of pictures included."""
        return int(self.inputs["input_ids"].shape[1])


class LastPiece(str):
    """The last piece of a text that comes in pieces.

    Attributes:
        is_complete: whether an end token or a stop string ended the text, rather than the number of tokens.
    """

    is_complete: bool

    def __new__(cls, text: str, *, is_complete: bool) -> LastPiece:
        made = super().__new__(cls, text)
        made.is_complete = is_complete
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {"is_complete": self.is_complete}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredToken:
    """A token with its probability, as the model gives it: before temperature, penalties and what shapes a draw.

    Attributes:
        data: the bytes of its text; a token may be a part of a character. None: it has none that are known.
        logprob: the natural logarithm of its probability.
    """

    token: int
    data: bytes | None
    logprob: float


class ScoredPiece(str):
    """A piece of a text, with the token that it came with; the token's own text may come later.

    Attributes:
        scored: the token.
        likeliest: the likeliest tokens at its place, the first one first.
    """

    scored: ScoredToken
    likeliest: tuple[ScoredToken, ...]

    def __new__(cls, text: str, *, scored: ScoredToken, likeliest: tuple[ScoredToken, ...]) -> ScoredPiece:
        made = super().__new__(cls, text)
        made.scored, made.likeliest = scored, likeliest
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {"scored": self.scored, "likeliest": self.likeliest}
