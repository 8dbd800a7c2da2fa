"""How true a candidate is: `reference` asks the eager model, `comparison` holds candidates to its word."""

from optimum_core.verify.comparison import (
    TOLERANCES,
    ReferenceCase,
    Tolerance,
    compare,
    failed,
    failing_axes,
    relative_error,
    tolerance_of,
    verify,
)

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
