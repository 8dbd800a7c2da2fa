"""Limits of a request beyond the bytes of its body, of which some would make much of little: clear refusals."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optimum_core.types.arrays import NDArray
from optimum_serve.errors import invalid
from optimum_serve.settings import Settings

#: The axes of an output with one vector for each input; and the values that an answer may have beyond that.
_POOLED, _MOST_VALUES = 2, 2**24
#: The weights above zero that sparse embeddings of one answer may have; a SPLADE model gives some hundreds for a text.
_MOST_ENTRIES = 2**20


def check_number(count: int, settings: Settings) -> None:
    """Refuse more inputs than one request may have."""
    if count > settings.max_inputs:
        message = f"{count} inputs came in one request, and {settings.max_inputs} are allowed"
        raise invalid(message, "too_many", 413)


def check_size(texts: Sequence[Any], settings: Settings) -> None:
    """Refuse pairs that hold one text so often that they are far longer than the request they came in."""
    pairs = [text for text in texts if isinstance(text, tuple)]
    size, most = sum(len(first) + len(second) for first, second in pairs), settings.max_body
    if size > most:
        why = f"the pairs of this request have {size} characters, the question before each text, and {most}"
        raise invalid(f"{why} are allowed: shorten the question, or send fewer texts", "too_large", 413)


def check_lengths(lengths: Sequence[int], longest: int | None) -> None:
    """Refuse a text that is longer than the model takes."""
    for number, length in enumerate(lengths):
        if longest is not None and length > longest:
            raise invalid(
                f"input {number} has {length} tokens, and the model takes {longest}: cut it, or let "
                'the server do it ("truncate": true, or its setting auto_truncate)',
                "too_long", 413,
            )  # fmt: skip


def check_values(shape: Sequence[int | str], tokens: int) -> None:
    """Refuse more vectors of tokens than fit into one answer.

    Args:
        shape: of the output.
    """
    width = shape[-1] if len(shape) > _POOLED and isinstance(shape[-1], int) else 0
    if tokens * width > _MOST_VALUES:
        most = _MOST_VALUES // width
        message = f"{tokens} tokens have a vector each, and {most} fit into one answer: send fewer texts"
        raise invalid(message, "too_many", 413)


def check_entries(count: int) -> None:
    """Refuse more weights of words than fit into one answer; each takes some thirty bytes of it."""
    if count > _MOST_ENTRIES:
        message = f"the sparse embeddings have {count} weights above zero, and {_MOST_ENTRIES} fit into one answer"
        raise invalid(f"{message}: send fewer texts", "too_many", 413)


def check_batch(arrays: Mapping[str, NDArray], batched: Collection[str], settings: Settings) -> None:
    """Refuse a greater batch of a client's own than the server makes.

    Args:
        batched: names of the inputs whose first axis counts rows.
    """
    rows = max((len(array) for name, array in arrays.items() if name in batched and array.ndim), default=0)
    check_number(rows, settings)
    tokens, most = tokens_of(arrays), settings.max_batch_tokens
    if rows > 1 and tokens > most:
        message = f"the batch has {tokens} tokens, and {most} are allowed (the setting max_batch_tokens)"
        raise invalid(f"{message}: send fewer rows", "too_many", 413)


def tokens_of(arrays: Mapping[str, NDArray]) -> int:
    """Return the tokens of a batch, padding included; 1 where it has no ids."""
    ids = arrays.get("input_ids")
    return int(math.prod(ids.shape)) if ids is not None else 1
