"""Activations of torch in numpy, by their names, for what is computed behind a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimum_core.errors import UnavailableError
from optimum_core.packages import present
from optimum_core.types.arrays import NDArray

Activation = Callable[[NDArray], NDArray]
_TORCH = "torch.nn."
_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has none


def sigmoid(values: NDArray) -> NDArray:
    """Return the logistic function of each value."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)), dtype=values.dtype)  # does not overflow


def softmax(values: NDArray) -> NDArray:
    """Return shares along the last axis."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _softplus(values: NDArray) -> NDArray:
    return np.asarray(np.logaddexp(values, 0, dtype=values.dtype))


def _gelu(values: NDArray) -> NDArray:
    return np.asarray(0.5 * values * (1 + np.asarray(_erf(values / math.sqrt(2)), dtype=values.dtype)))


#: By name, with the settings that they have by themselves. Torch computes the others.
FUNCTIONS: Mapping[str, Activation] = {
    "ELU": lambda values: np.where(values > 0, values, np.expm1(np.minimum(values, 0))),
    "GELU": _gelu,
    "Hardsigmoid": lambda values: np.clip(values / 6 + 0.5, 0, 1),
    "Hardtanh": lambda values: np.clip(values, -1, 1),
    "Identity": lambda values: values,
    "LeakyReLU": lambda values: np.where(values > 0, values, values * values.dtype.type(0.01)),
    "LogSigmoid": lambda values: -_softplus(-values),
    "ReLU": lambda values: np.maximum(values, 0),
    "ReLU6": lambda values: np.clip(values, 0, 6),
    "SiLU": lambda values: values * sigmoid(values),
    "Sigmoid": sigmoid,
    "Softplus": _softplus,
    "Softsign": lambda values: values / (1 + np.abs(values)),
    "Tanh": np.tanh,
}


def name_of(path: str) -> str:
    """Return the name of an activation by the path of its class; empty: it is of no class of `torch.nn`."""
    return path.rpartition(".")[2] if path.startswith(_TORCH) else ""


def activation_at(path: str, who: str) -> Activation:
    """Return the function of an activation by the path of its class.

    Raises:
        SourceError: it is of no class of `torch.nn`, or of one with settings.
        UnavailableError: torch computes it, and is not installed.
    """
    name = name_of(path)
    if (known := FUNCTIONS.get(name)) is not None:
        return known
    if name and not present("torch"):
        raise UnavailableError(who, f"torch computes the model's activation {path!r}", "pip install torch")
    from optimum_core.models.sources.sentences.heads import activation_of

    module = activation_of(path, who)
    return lambda values: _by_torch(module, values)


def _by_torch(module: Any, values: NDArray) -> NDArray:
    import torch

    with torch.no_grad():
        return np.asarray(module(torch.as_tensor(values)).numpy())
