"""Verification of candidates: `reference` computes the eager model's outputs, `comparison` compares with them.

`planned_cases` are the lengths and paddings to compare at, in the order in which they are worth the time;
`lengths_between` adds others where eager is quick.

Errors are measured by the usual magnitude of an output (`error_scales`); `bound_cases` has the case of all whole
numbers that are taken, `large_value_cases` those of values far from the samples, `edge_value_cases` of zeros, equal
values and switches that are all alike, `empty_rows` those of rows without content, `skipped_label_cases` those of
labels that no loss counts; `tiny_outputs` has outputs of tiny numbers, `meaningful_positions` leaves padding out.
`determinism` refuses models whose answers follow from more than their inputs; `gradients` asks whether eager answers
otherwise while these are recorded, `eager_refusals` where it raises. `carried_call` is the one call that an artifact
carries. For decoders, `quantized_decoder` goes through `dialogues`, and `divergence` and `perplexity` are measured.
`ranges` are the lengths at which a candidate was correct. For quantized models, `quantized` compares, and `promise`
decides whether the loss of a metric is within the limit; `model_use` finds metrics that ignore the model.
"""

from optimum_core.error_scales import relative_error
from optimum_core.verify.comparison import (
    TOLERANCES,
    ReferenceCase,
    Run,
    Tolerance,
    compare,
    failed,
    failing_axes,
    tolerance_of,
    verify,
)

__all__ = [
    "TOLERANCES",
    "ReferenceCase",
    "Run",
    "Tolerance",
    "compare",
    "failed",
    "failing_axes",
    "relative_error",
    "tolerance_of",
    "verify",
]
