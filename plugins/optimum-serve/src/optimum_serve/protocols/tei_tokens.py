"""Tokens of texts and texts of tokens, in the protocol of text-embeddings-inference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from optimum_core import AcceleratedModel
from optimum_core.types import Cut
from optimum_serve.endpoints import Call, json_response
from optimum_serve.errors import empty, invalid
from optimum_serve.protocols.tei_forms import endpoints, prompt_of
from optimum_serve.protocols.texts import Id
from optimum_serve.serving import ServedModel


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the tokens of texts."""

    inputs: str | list[str]
    prompt_name: str | None = None
    add_special_tokens: bool = True


class Token(msgspec.Struct, kw_only=True):
    """A token: its number, its part of the text, and the place of that in characters.

    Attributes:
        special: the tokenizer added it, or it stands for no text; then `text` is its name.
        start, stop: None for a special one.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request for the texts of ids."""

    ids: list[Id | list[Id]]
    skip_special_tokens: bool = True


async def _tokenize(call: Call) -> Response:
    body: TokenizeRequest = call.body
    model = _with_text(call)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not texts:
        raise empty("inputs")
    prompt = prompt_of(model, body.prompt_name)
    prompt = model.default_prompt if prompt is None else prompt
    how = partial(_tokens, model.model, special=body.add_special_tokens)
    return json_response(await model.read([prompt + text for text in texts], how))


def _tokens(
    model: AcceleratedModel, texts: Sequence[str], prompt: str, truncate: Cut, *, special: bool
) -> list[list[Token]]:
    """Return the tokens of texts; where the model's own ids are others than those of the plain tokenizer, without their
    places."""
    encoded = model.plain_tokenizer.encode_batch(list(texts), add_special_tokens=special)
    found = [_placed(text, encoding) for text, encoding in zip(texts, encoded, strict=True)]
    if special:
        for number, item in enumerate(model.tokenize(texts, truncation=False)):
            ids = [int(one) for one in item["input_ids"]]
            if ids != encoded[number].ids:
                found[number] = _named(model, ids)
    return found


def _placed(text: str, encoding: Any) -> list[Token]:
    columns = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return [
        Token(id=number, text=token, special=True, start=None, stop=None)
        if special
        else Token(id=number, text=text[start:stop], special=False, start=start, stop=stop)
        for number, token, (start, stop), special in columns
    ]


def _named(model: AcceleratedModel, ids: Sequence[int]) -> list[Token]:
    tokenizer = model.plain_tokenizer
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return [
        Token(id=one, text=tokenizer.id_to_token(one) or "", special=one in special, start=None, stop=None)
        for one in ids
    ]


async def _decode(call: Call) -> Response:
    body: DecodeRequest = call.body
    model = _with_text(call)
    if not body.ids:
        raise empty("ids")
    if len({type(item) for item in body.ids}) != 1:
        raise invalid("ids mixes ids and lists of ids")
    rows: list[Any] = [body.ids] if isinstance(body.ids[0], int) else body.ids
    if not all(rows):
        raise empty("a list in ids")
    model.check_number(len(rows))
    return json_response(await asyncio.to_thread(_texts, model.model.plain_tokenizer, rows, body.skip_special_tokens))


def _texts(tokenizer: Any, rows: Sequence[Sequence[int]], skip: bool) -> list[str]:
    for ids in rows:
        if (unknown := next((one for one in ids if tokenizer.id_to_token(one) is None), None)) is not None:
            raise invalid(f"the tokenizer has no token {unknown}")
    return [tokenizer.decode(ids, skip_special_tokens=skip) for ids in rows]


def _with_text(call: Call) -> ServedModel:
    return call.server.chosen(call, None, lambda model: model.takes_text, "takes texts")


ENDPOINTS = (
    *endpoints("/tokenize", _tokenize, "Return the tokens of texts", TokenizeRequest, list[list[Token]]),
    *endpoints("/decode", _decode, "Return the texts of ids", DecodeRequest, list[str]),
)
