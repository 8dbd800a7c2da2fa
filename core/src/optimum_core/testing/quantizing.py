"""Configurations and comparisons for tests of quantization."""

from __future__ import annotations

from typing import Any

import numpy as np

from optimum_core.types import QuantizeConfig


def weight_only(**fields: Any) -> QuantizeConfig:
    """Return a configuration that quantizes weights only, in int8 where the fields state nothing else."""
    return QuantizeConfig(scheme="weight-only", **fields)


def cosine(one: Any, other: Any) -> float:
    """Return the cosine of the angle between two arrays of one shape, read as vectors."""
    first, second = (np.asarray(values, np.float64).ravel() for values in (one, other))
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
