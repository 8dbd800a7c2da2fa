"""The common part of the paths of text-embeddings-inference.

Each path is there a second time under /models/NAME, for servers of several models. Source:
https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from optimum_serve.endpoints import Call, Endpoint
from optimum_serve.errors import invalid
from optimum_serve.serving import ServedModel
from optimum_serve.tokenizing import Side

_NAME = "text-embeddings-inference"
#: Paths for one model, and for the one that is named.
_PREFIXES = ("", "/models/{model}")
_SIDES: dict[str, Side] = {"left": "left", "right": "right"}
Answer = Callable[[Call], Awaitable[Response]]


def side_of(direction: str | None) -> Side | None:
    """Return the side on which texts are cut; None: the request does not say."""
    side = None if direction is None else _SIDES.get(direction.lower())
    if direction is not None and side is None:
        raise invalid(f"truncation_direction is {direction!r}: left or right", field="truncation_direction")
    return side


def prompt_of(model: ServedModel, name: str | None) -> str | None:
    """Return the prompt of a name; None: none is named.

    Raises:
        RequestError: the model has none of this name.
    """
    if name is None:
        return None
    prompts = model.model.prompts
    if name not in prompts:
        known = ", ".join(map(repr, prompts)) or "none"
        raise invalid(f"the model has no prompt named {name!r}; its prompts are {known}")
    return prompts[name]


def endpoints(
    path: str,
    answer: Answer,
    summary: str,
    takes: Any,
    gives: Any = None,
    *,
    method: str = "POST",
    json: Any = None,
    files: bool = False,
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a path. A model that cannot do what is asked is status 424, as there."""
    return tuple(
        Endpoint(
            method=method, path=prefix + path or "/", answer=answer, summary=summary, protocol=_NAME, takes=takes,
            json=json, files=files, gives=gives, statuses={501: 424},
        )
        for prefix in _PREFIXES
    )  # fmt: skip
