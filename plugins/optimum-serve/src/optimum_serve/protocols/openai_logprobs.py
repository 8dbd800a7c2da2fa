"""Log probabilities of tokens, in the two forms that OpenAI's protocol has for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from optimum_core.types import ScoredPiece, ScoredToken
from optimum_serve.errors import invalid
from optimum_serve.protocols.openai_forms import ChatRequest, CompletionRequest, Writing

#: The greatest number of likeliest tokens, as OpenAI has it for chats.
_MOST = 20
#: In the place of minus infinity, which JSON has not, as OpenAI has it.
_NEVER = -9999.0


def asked(body: Writing) -> int | None:
    """Return the number of likeliest tokens that a request asks for; None: it asks for no log probabilities.

    Raises:
        RequestError: the number makes no sense.
    """
    name, count = "logprobs", None
    if isinstance(body, CompletionRequest):
        count = body.logprobs
    elif isinstance(body, ChatRequest):
        name, count = "top_logprobs", body.top_logprobs
        if count is not None and not body.logprobs:
            if count:
                raise invalid("top_logprobs needs logprobs: true", field="top_logprobs")
            return None
        count = (count or 0) if body.logprobs else None
    if count is not None and not 0 <= count <= _MOST:
        raise invalid(f"{name} is {count}: 0 to {_MOST} are allowed", field=name)
    return count


def of_chat(pieces: Sequence[ScoredPiece]) -> dict[str, Any]:
    """Return the log probabilities of pieces, as chats have them."""
    return {"content": [_in_chat(piece) for piece in pieces], "refusal": None}


def _in_chat(piece: ScoredPiece) -> dict[str, Any]:
    return {**_entry(piece.scored), "top_logprobs": [_entry(token) for token in piece.likeliest]}


def _entry(token: ScoredToken) -> dict[str, Any]:
    data = None if token.data is None else list(token.data)
    return {"token": _text(token), "logprob": _finite(token.logprob), "bytes": data}


def of_completion(pieces: Sequence[ScoredPiece], offset: int) -> dict[str, Any]:
    """Return the log probabilities of pieces, as /v1/completions has them.

    Args:
        offset: the characters of the tokens before them.
    """
    texts = [_text(piece.scored) for piece in pieces]
    offsets = list(accumulate(map(len, texts), initial=offset))[:-1]
    tops = [{_text(token): _finite(token.logprob) for token in (*piece.likeliest, piece.scored)} for piece in pieces]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(piece.scored.logprob) for piece in pieces],
        "top_logprobs": tops if any(piece.likeliest for piece in pieces) else None,
        "text_offset": offsets,
    }


def length_of(piece: ScoredPiece) -> int:
    """Return the number of characters of a token, as offsets count them."""
    return len(_text(piece.scored))


def _text(token: ScoredToken) -> str:
    """Return the text of a token; where it is a part of a character, its bytes, as OpenAI writes them."""
    if token.data is None:
        return f"token_id:{token.token}"
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _finite(logprob: float) -> float:
    return max(logprob, _NEVER)
