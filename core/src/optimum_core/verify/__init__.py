"""How true a candidate is: `reference` asks the eager model, `comparison` holds candidates to its word.

Of quantized ones, `evidence` gathers the data, `quantized` compares, and `promise` tells whether what their user would
lose is what was allowed.
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
