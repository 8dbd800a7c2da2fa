"""Calls of a stateful program in the form of its model: whole texts in, the logits of every token out.

The program takes new tokens only (`optimum_coreml.stateful`), one text at a time. The prefix that a text shares with
the one before is in the state already: for a text that continues, only the new tokens are computed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from optimum_core.types import TensorSpec
from optimum_core.types.arrays import NDArray

#: Inputs and outputs of a model with a stateful program.
TEXT_INPUTS = ("input_ids", "attention_mask")
LOGITS = "logits"
_HIDDEN = np.float32(-1e4)


def program_specs(outputs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs of the program itself, for a model with these outputs."""
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", shape=(1, "query")),
        TensorSpec(name="causal_mask", dtype="float32", shape=(1, 1, "query", "end")),
    )
    return inputs, (TensorSpec(name=LOGITS, dtype="float32", shape=(1, "query", outputs[0].shape[-1])),)


def causal_mask(begin: int, kept: NDArray) -> NDArray:
    """Return the mask that the program adds to the scores of the tokens from `begin` to the last.

    Args:
        kept: for every token of the text so far, whether it is a real token, not padding.

    >>> causal_mask(1, np.array([1, 1, 1]))[0, 0].tolist()
    [[0.0, 0.0, -10000.0], [0.0, 0.0, 0.0]]
    """
    end = len(kept)
    seen = (np.arange(end)[None] <= np.arange(begin, end)[:, None]) & (kept != 0)
    return np.where(seen, np.float32(0), _HIDDEN)[None, None]


class Texts:
    """Translates the model's calls into the program's. Calls take turns.

    Args:
        engine: runs the program once.
        in_pieces: feed a text in several calls, some of one token, although one would do: so that verification tests
            the state.
    """

    def __init__(self, engine: Callable[[dict[str, NDArray]], Mapping[str, NDArray]], *, in_pieces: bool) -> None:
        self._engine, self._in_pieces = engine, in_pieces
        self._turn = threading.Lock()
        self._ids: NDArray
        self._kept: NDArray
        self._logits: NDArray
        self._forget()

    def __call__(self, inputs: dict[str, NDArray]) -> Mapping[str, NDArray]:
        """Return `logits` (batch x sequence x vocabulary) for `input_ids`, and `attention_mask` where there is one."""
        ids = inputs["input_ids"]
        kept = inputs.get("attention_mask", np.ones_like(ids))
        with self._turn:
            return {LOGITS: np.stack([self._text(*row) for row in zip(ids, kept, strict=True)])}

    def _text(self, ids: NDArray, kept: NDArray) -> NDArray:
        known = self._shared(ids, kept)
        parts = [self._logits[:known]]
        self._forget()  # after a failed call, the contents of the state are unknown
        for begin, end in self._spans(known, len(ids)):
            given = {"input_ids": ids[None, begin:end], "causal_mask": causal_mask(begin, kept[:end])}
            parts.append(self._engine(given)[LOGITS][0])
        logits = np.concatenate(parts) if known else np.concatenate(parts[1:])
        self._ids, self._kept, self._logits = ids.copy(), kept.copy(), logits
        return logits

    def _forget(self) -> None:
        self._ids = self._kept = np.zeros(0, np.int32)
        self._logits = np.zeros((0, 0), np.float32)

    def _shared(self, ids: NDArray, kept: NDArray) -> int:
        """Return the number of leading tokens that equal those of the last text."""
        count = min(len(ids), len(self._ids))
        other = (ids[:count] != self._ids[:count]) | (kept[:count] != self._kept[:count])
        return int(other.argmax()) if other.any() else count

    def _spans(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        middle = (begin + end) // 2
        cuts = {begin, middle, middle + 1, end} if self._in_pieces and end > begin else {begin, end}
        return pairwise(sorted(cuts))
