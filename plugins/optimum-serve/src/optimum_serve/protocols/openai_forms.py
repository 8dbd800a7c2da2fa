"""Structures of OpenAI's protocol that embeddings and text have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from optimum_serve.errors import invalid


class Usage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Numbers of tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


def several(given: str | list[Any], name: str) -> list[Any]:
    """Return texts, or ids of texts, where one or several came.

    Raises:
        RequestError: there is none, or they are mixed.
    """
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if len(kinds) != 1:
        raise invalid(f"{name} is empty" if not given else f"{name} mixes texts and ids")
    found = [given] if kinds == {int} else given
    if not all(found):
        raise invalid(f"{name} has an empty item")
    return found
