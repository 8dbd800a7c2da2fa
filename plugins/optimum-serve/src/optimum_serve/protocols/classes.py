"""Classes and their scores, from the logits of one input."""

from __future__ import annotations

import msgspec
import numpy as np

from optimum_core.types.arrays import NDArray
from optimum_serve.serving import ServedModel


class Score(msgspec.Struct, kw_only=True):
    """A class and its score."""

    label: str
    score: float


def classes(model: ServedModel, logits: NDArray, function: str | None = None) -> list[Score]:
    """Return all classes of one input, the likeliest first.

    Args:
        function: on the logits: "sigmoid", "softmax" or "none"; None: as the model states.
    """
    scores = _probabilities(model, logits, function)
    labels = model.labels
    order = np.argsort(-scores, kind="stable").tolist()
    return [Score(label=labels[place], score=float(scores[place])) for place in order]


def sigmoid(logits: NDArray) -> NDArray:
    """Return the sigmoid, in a form that does not overflow and keeps small shares."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _probabilities(model: ServedModel, logits: NDArray, function: str | None) -> NDArray:
    if function == "none":
        return logits
    several = model.model.config_value("problem_type") == "multi_label_classification"
    if function == "sigmoid" or (function is None and (len(logits) == 1 or several)):
        return sigmoid(logits)
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
