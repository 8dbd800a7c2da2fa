"""The distance of a candidate's next tokens from eager's over a text, summed up token by token in little memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimum_core.types.arrays import NDArray

#: Numbers of scores that are compared at a time.
_CHUNK = 4_000_000


@dataclass(kw_only=True, slots=True)
class Divergence:
    """The difference of two models' scores, both fed the same text.

    Attributes:
        tokens: positions compared.
        finite: no score is NaN or infinite where eager's is finite.
    """

    tokens: int = 0
    finite: bool = True
    _agreeing: int = 0
    _divergence: float = 0.0
    _error: float = 0.0
    _want: float = 0.0
    _have: float = 0.0
    _product: float = 0.0

    def add(self, want: NDArray, have: NDArray) -> None:
        """Compare scores [tokens, vocabulary] with eager's."""
        step = max(1, _CHUNK // want.shape[-1])
        for start in range(0, len(want), step):
            self._add(want[start : start + step], np.asarray(have[start : start + step]))

    def _add(self, want: NDArray, have: NDArray) -> None:
        known = np.isfinite(want)
        self.finite = self.finite and bool(np.isfinite(have[known]).all())
        picked = np.take_along_axis(want, have.argmax(-1)[:, None], axis=-1)[:, 0]
        self.tokens += len(want)
        self._agreeing += int((picked >= want.max(-1)).sum())
        a, b = (np.where(known, np.nan_to_num(item), 0).astype(np.float64) for item in (want, have))
        self._error += float(np.square(a - b).sum())
        self._want += float(np.square(a).sum())
        self._have += float(np.square(b).sum())
        self._product += float((a * b).sum())
        shares = log_shares(np.where(known, a, -np.inf))
        gaps = np.where(known, shares - log_shares(np.where(known, b, -np.inf)), 0)
        self._divergence += float((np.exp(shares) * gaps).sum())

    @property
    def relative_error(self) -> float:
        """The norm of the difference over the norm of eager's scores."""
        return float(np.sqrt(self._error) / max(np.sqrt(self._want), 1e-12)) if self.finite else float("inf")

    @property
    def cosine(self) -> float:
        """The cosine of the two models' scores as one vector."""
        return float(self._product / max(np.sqrt(self._want * self._have), 1e-12)) if self.finite else 0.0

    @property
    def agreement(self) -> float:
        """The share of tokens that both models find the likeliest; ties count as they fall."""
        return self._agreeing / max(self.tokens, 1)

    @property
    def mean(self) -> float:
        """The Kullback-Leibler divergence of the probabilities from eager's, in nats a token."""
        return self._divergence / max(self.tokens, 1) if self.finite else float("inf")


def log_shares(scores: NDArray) -> NDArray:
    """Return the logarithm of the softmax along the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        made: NDArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return made
