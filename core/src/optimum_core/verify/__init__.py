"""Verification of candidates: `reference` computes the eager model's outputs, `comparison` compares with them.

For quantized models, `quantized` compares, and `promise` decides whether the loss of a metric is within the limit.
"""

from optimum_core.verify.comparison import (
    TOLERANCES,
    ReferenceCase,
    Tolerance,
    compare,
    failed,
    failing_axes,
    tolerance_of,
    verify,
)
from optimum_core.verify.scales import relative_error

__all__ = [
    "TOLERANCES",
    "ReferenceCase",
    "Tolerance",
    "compare",
    "failed",
    "failing_axes",
    "relative_error",
    "tolerance_of",
    "verify",
]
