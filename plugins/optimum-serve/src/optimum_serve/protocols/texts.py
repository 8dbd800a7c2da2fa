"""Texts of requests, or ids in their place, as inputs of a model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from optimum_serve.errors import empty, invalid
from optimum_serve.serving import Rows, ServedModel
from optimum_serve.tokenizing import Side

#: The id of a token.
Id = Annotated[int, Meta(ge=0, le=2**32 - 1)]
#: A text, the ids of one, or several of either.
Given = str | list[str | Id | list[Id]]


def several(given: str | list[Any], name: str) -> list[Any]:
    """Return texts, or ids of texts, where one or several came.

    Raises:
        RequestError: there is none, one is empty, or they are mixed.
    """
    if isinstance(given, str):
        given = [given]
    kinds = {type(item) for item in given}
    if not given:
        raise empty(name, name)
    if len(kinds) != 1:
        raise invalid(f"{name} mixes texts and ids", field=name)
    found = [given] if kinds == {int} else given
    if (number := next((number for number, item in enumerate(found) if not item), None)) is not None:
        raise empty(f"{name} {number}", name)
    return found


async def rows_of(
    model: ServedModel,
    given: Given,
    output: str,
    *,
    name: str,
    prompt: str | None = None,
    truncate: bool | None = None,
    side: Side | None = None,
) -> Rows:
    """Return an output of a model for each text, or for the ids of each.

    Args:
        name: of the field, for errors.
        prompt: put before each text; None: the model's own default.
        truncate: cut texts that are too long; None: as the server's settings say.
        side: where they are cut then; None: as the tokenizer states.

    Raises:
        RequestError: there is none, they are not of this model, or too long.
    """
    found = several(given, name)
    if isinstance(found[0], str):
        return await model.rows(found, output, prompt=prompt, truncate=truncate, side=side)
    if prompt:
        raise invalid("a prompt cannot be put before ids: send texts", "not_supported")
    _check_frame(model, found)
    return await model.run([{"input_ids": ids} for ids in found], output, [len(ids) for ids in found])


def in_base64(row: Any) -> str:
    """Return the bytes of a vector, float32 in little endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()


def _check_frame(model: ServedModel, given: Sequence[Sequence[int]]) -> None:
    """Refuse ids that another tokenizer made, or this one without the ids that the model was trained with."""
    before, behind = model.frame
    for ids in given:
        if tuple(ids[: len(before)]) != before or tuple(ids[len(ids) - len(behind) :]) != behind:
            raise invalid(
                f"ids of a text do not begin with {list(before)} and end with {list(behind)}, as the tokenizer of "
                f"model {model.name!r} makes them: send texts, or such ids "
                "(LangChain: check_embedding_ctx_length=False)"
            )
