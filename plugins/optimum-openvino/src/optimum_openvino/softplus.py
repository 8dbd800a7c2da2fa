"""SoftPlus to the last digits.

OpenVINO (2026.4) computes it to 4e-6, whatever the result: at -60 it gives 4e-6 in place of 9e-27. Recurrences take
their time steps from it, of a thousandth and less, and multiply them by hundreds.
"""

from __future__ import annotations

from typing import Any

_KIND = "SoftPlus"
#: Below this exp(-|x|), log(1 + it) is taken from its series, which is off by a millionth of the result at most there.
_SMALL = 0.05


def exact_softplus(model: Any) -> None:
    """Replace SoftPlus in an `openvino.Model`, in place."""
    changed = [operation for operation in model.get_ordered_ops() if operation.get_type_name() == _KIND]
    for operation in changed:
        made = _softplus(operation.input_value(0))
        made.set_friendly_name(operation.get_friendly_name())
        operation.output(0).replace(made.output(0))
    if changed:
        model.validate_nodes_and_infer_types()


def _softplus(value: Any) -> Any:
    """Return log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|))."""
    from openvino import opset13 as ops

    def number(value_of: float) -> Any:
        return ops.constant(value_of, value.get_element_type())

    rest = ops.exp(ops.negative(ops.absolute(value)))
    series = number(-1 / 4)
    for factor in (1 / 3, -1 / 2, 1.0):
        series = ops.add(number(factor), ops.multiply(rest, series))
    logarithm = ops.log(ops.add(number(1.0), rest))
    small = ops.less(rest, number(_SMALL))
    return ops.add(ops.relu(value), ops.select(small, ops.multiply(rest, series), logarithm))
