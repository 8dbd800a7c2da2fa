"""The workload of generators: (batch, prompt, new tokens), and one call of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.model_session import GenerativeSession
from optimum_core.generation.settings import Settings

#: Batch, tokens of the prompt, new tokens: a chat's turn, and a few at once.
NEW_TOKENS = 32
DEFAULT = ((1, 128, NEW_TOKENS), (4, 64, NEW_TOKENS))
NEW = "new"
_AXES = ("batch", "sequence", NEW)
_LAST = 2  # positions kept free below the model's limit: some models count from the padding


#: A timed call ends after these seconds and these steps: tokens take equal times, so that the rest of them is known.
_ENOUGH_SECONDS, _ENOUGH_STEPS = 0.5, 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The result of one timed call.

    Attributes:
        first_seconds: until its first token.
        scale: the time of all tokens over that of those which came: over 1 where the call ended before them.
    """

    first_seconds: float
    scale: float = 1.0


def lengths_of(shape: Sequence[int] | Mapping[str, int]) -> dict[str, int]:
    """Return a stated shape as lengths by axis; without new tokens, the default's number.

    Raises:
        OptionError: it is no (batch, prompt, new tokens) or mapping of these axes.

    >>> lengths_of((2, 16, 8))
    {'batch': 2, 'sequence': 16, 'new': 8}
    """
    if isinstance(shape, Mapping):
        unknown = sorted(set(shape) - set(_AXES))
        lengths = {"batch": 1, "sequence": 128, NEW: NEW_TOKENS, **shape}
    else:
        unknown = [] if len(shape) in (2, 3) else ["number of lengths"]
        lengths = dict(zip(_AXES, (*shape, NEW_TOKENS), strict=False))
    if unknown or any(length < 1 for length in lengths.values()):
        raise OptionError(
            "shapes",
            f"{shape!r} is no workload of a model that generates",
            'pass (batch, prompt, new tokens), or {"batch": 1, "sequence": 128, "new": 32}',
        )
    return lengths


def workload_of(
    shapes: Sequence[Sequence[int] | Mapping[str, int]] | None, longest: int | None
) -> tuple[dict[str, int], ...]:
    """Return the stated workload, or the default cut to what the model takes.

    Args:
        longest: the greatest number of positions; None: unknown.

    Raises:
        OptionError: a shape makes no sense, or is beyond the model.
    """
    if shapes is None:
        return tuple(dict(_within(shape, longest)) for shape in DEFAULT)
    stated = tuple(_stated(shape, longest) for shape in shapes)
    for lengths in stated:
        if longest is not None and lengths["sequence"] + lengths[NEW] > longest:
            raise OptionError(
                "shapes", f"{lengths['sequence']} + {lengths[NEW]} tokens are too many", f"the model takes {longest}"
            )
    return stated


def _stated(shape: Sequence[int] | Mapping[str, int], longest: int | None) -> dict[str, int]:
    """Return a stated shape; the lengths of one that states only the batch are cut to what the model takes."""
    lengths = lengths_of(shape)
    if isinstance(shape, Mapping) and not {"sequence", NEW} & set(shape):
        return _within((lengths["batch"], lengths["sequence"], lengths[NEW]), longest)
    return lengths


def _within(shape: tuple[int, int, int], longest: int | None) -> dict[str, int]:
    batch, prompt, new = shape
    if longest is not None and prompt + new > longest - _LAST:
        new = min(new, max((longest - _LAST) // 2, 1))
        prompt = max(min(prompt, longest - _LAST - new), 1)
    return {"batch": batch, "sequence": prompt, NEW: new}


def timed_call(session: GenerativeSession, inputs: Mapping[str, Any], new: int) -> Callable[[], Generated]:
    """Return a call that generates `new` tokens greedily from inputs, or as many as show what all of them take."""
    settings = Settings(max_new_tokens=new)

    def call() -> Generated:
        start = time.perf_counter()
        decoder, ids, mask = session.started(inputs)
        tokens = next_tokens(decoder, ids, settings, mask)
        next(tokens)
        first = spent = time.perf_counter() - start
        steps = 0
        for _ in tokens:
            steps, spent = steps + 1, time.perf_counter() - start
            if steps >= _ENOUGH_STEPS and spent > _ENOUGH_SECONDS:
                tokens.close()
                break
        else:
            return Generated(first_seconds=first)
        whole = first + (spent - first) / steps * (new - 1)
        return Generated(first_seconds=first, scale=max(whole / spent, 1.0))

    return call
