"""Continuous batching: many generations of one session, each call of which gives the next token of all of them.

A backend whose runtime has it adds the method `continuous` to the session of a decoder of ids; others leave it out, and
core never needs it. Generations come and go between two calls. The runtime chooses the tokens itself, so that a request
states by what settings; one with others than those of `Sampling` is driven call by call, through a `State`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousLimits:
    """The greatest size of a continuous batch.

    Attributes:
        rows: generations that run at once; further ones wait in the runtime.
        tokens: tokens of one call, those of prompts included; a longer prompt is read in several calls.
        cache: bytes for keys and values, those kept of ended generations included. Where they do not suffice, a
            generation is interrupted and its text read again.
    """

    rows: int = 64
    tokens: int = 512
    cache: int = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """The choice of tokens of one generation, with the meaning of transformers' `GenerationConfig`.

    Attributes:
        eos: ids that end it.
        do_sample: draw each token by its probability; False: take the likeliest.
        temperature, top_k, top_p: shape the probabilities before a draw; None: not at all.
        repetition_penalty: over 1, tokens that have occurred become less likely.
    """

    max_new_tokens: int
    eos: tuple[int, ...] = ()
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The new tokens of one generation, and whether no more will come."""

    tokens: tuple[int, ...]
    ended: bool


class ContinuousBatch(Protocol):
    """Generations that run together. One thread uses it at a time."""

    @property
    def tool(self) -> str:
        """The distribution that does it, with its version ("openvino-genai 2026.4.1.0")."""
        ...

    @property
    def positions(self) -> int:
        """The number of positions for which it has memory."""
        ...

    def add(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Begin a generation of at most `positions` tokens, prompt included, and return its number.

        Raises:
            InputError: it is longer, or the runtime refuses it.
        """
        ...

    def step(self) -> Mapping[int, Progress]:
        """Run the model once; return what is new of the generations that have something new.

        Raises:
            SessionError: the runtime failed; all generations are lost.
        """
        ...

    def cancel(self, number: int) -> None:
        """End a generation, and free its memory with the next step. One that has ended already stays so."""
        ...

    def close(self) -> None:
        """End all generations, and free the memory."""
        ...


@runtime_checkable
class ContinuousSession(Protocol):
    """A session of a decoder whose runtime batches continuously."""

    def continuous(self, limits: ContinuousLimits) -> ContinuousBatch:
        """Return an empty batch.

        Raises:
            UnavailableError: not for this decoder, or a package is missing.
        """
        ...
