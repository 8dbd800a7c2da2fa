"""Boolean masks of attention as finite numbers.

OpenVINO (2026.4) reads a boolean mask as 0 and -inf, so that a query that may see no key gets NaN from the softmax:
a text without any token, or padding on the left of a causal model. Torch gives zeros there. With a finite number in
place of -inf such a query gets a mean of the values, and NaN can reach no other row. For every other query nothing
changes: whatever is hidden still has a weight of exactly zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: The number added to hidden scores: half of the least in 16 bits, so that the sum stays finite there too.
HIDDEN = float(np.finfo(np.float16).min) / 2

_MASK = 3


def finite_masks(model: Any) -> None:
    """Replace the boolean masks of an `openvino.Model`'s attention, in place."""
    from openvino import opset13 as ops

    made: dict[tuple[str, int], Any] = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "ScaledDotProductAttention" or len(operation.inputs()) <= _MASK:
            continue
        mask = operation.input_value(_MASK)
        if mask.get_element_type().get_type_name() != "boolean":
            continue
        scores = operation.input_value(0).get_element_type()
        key = mask.get_node().get_name(), mask.get_index()
        if key not in made:
            seen, hidden = (ops.constant(value, scores) for value in (0.0, HIDDEN))
            made[key] = ops.select(mask, seen, hidden)
        operation.input(_MASK).replace_source_output(made[key].output(0))
    if made:
        model.validate_nodes_and_infer_types()
