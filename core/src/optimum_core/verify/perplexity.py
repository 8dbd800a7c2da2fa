"""Perplexity of a model on texts: how surprised it is by the next token, given the true ones before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.errors import EvaluationError
from optimum_core.models.data.batches import Batches
from optimum_core.verify.divergence import log_shares
from optimum_core.verify.promise import Evaluated

#: Most numbers of scores that one call gives.
_MOST_SCORES = 2**26


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """The exponential of the mean negative log-likelihood of every token but the first of its text; less is better.

    Attributes:
        batches: texts as the model's inputs; one call at a time is in memory.
        vocabulary: number of tokens that the model knows.
    """

    batches: Batches
    vocabulary: int
    name: str = "perplexity"
    rises: bool = True

    @property
    def data(self) -> str:
        return f"{self.batches.items} text{'' if self.batches.items == 1 else 's'}"

    def value(self, evaluated: Evaluated) -> float:
        """Return the perplexity.

        Raises:
            EvaluationError: no text has two tokens, or a likelihood is no number.
        """
        total, tokens = 0.0, 0
        for inputs in self._calls():
            found = _likelihoods(np.asarray(evaluated.run(inputs)["logits"]), inputs)
            total += float(found.sum(dtype=np.float64))
            tokens += found.size
        if not tokens:
            raise EvaluationError("evaluate (perplexity)", "no text has two tokens", "pass longer texts")
        if not math.isfinite(total) or -total / tokens > math.log(np.finfo(np.float64).max):
            why = "a token's likelihood is zero or no number"
            raise EvaluationError("evaluate (perplexity)", why, "check the model on these texts")
        return math.exp(-total / tokens)

    def _calls(self) -> Iterator[Mapping[str, Any]]:
        """Yield inputs of as many rows as give few enough scores."""
        for inputs in self.batches:
            rows, length = inputs["input_ids"].shape
            step = max(1, _MOST_SCORES // max(1, length * self.vocabulary))
            for start in range(0, rows, step):
                yield {name: array[start : start + step] for name, array in inputs.items()}


def _likelihoods(logits: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the log-likelihood of every token that follows another one."""
    ids = inputs["input_ids"]
    mask = np.asarray(inputs.get("attention_mask", np.ones_like(ids))) == 1
    meant = mask[:, 1:] & mask[:, :-1]
    shares = log_shares(logits[:, :-1][meant].astype(np.float64))
    return np.take_along_axis(shares, ids[:, 1:][meant][:, None], axis=-1)[:, 0]
