"""Quotients that are exact where their fraction decides.

OpenVINO (2026.4) multiplies by the reciprocal in place of dividing, so that 41 / 41 becomes 0.99999994 and -21 / 7
becomes -3.0000002: off by a millionth, until something rounds them down. And it cuts off the fraction of an integer
quotient before that is rounded down. Lengths of padding, of chunks and of windows are made of such quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

#: Operations that give a greatly different result for a slightly different number.
_STEPS = frozenset(
    ("Floor", "Ceiling", "Round", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "Sign")
)
#: Operations through which the numbers that a step reads are followed to a quotient.
_PASSED = frozenset(("Add", "Subtract", "Negative", "Squeeze", "Unsqueeze", "Reshape", "Broadcast", "Concat", "Gather"))
#: Most operations between a quotient and a step.
_MOST_PASSED = 4


def exact_division(model: Any) -> None:
    """Make quotients of an `openvino.Model` exact that are rounded down, or that a step reads, in place."""
    operations = model.get_ordered_ops()
    changed: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        operation.get_name(): (operation, _rounded_down) for operation in operations if _rounds_down(operation)
    }
    for operation in filter(_is_step, operations):
        changed |= {quotient.get_name(): (quotient, _exact) for quotient in _quotients(operation)}
    for operation, make in changed.values():
        readers = operation.output(0).get_target_inputs()
        made = make(operation)
        made.set_friendly_name(f"{operation.get_friendly_name()}/exact")
        for reader in readers:
            reader.replace_source_output(made.output(0))
    if changed:
        model.validate_nodes_and_infer_types()


def _is_integer(value: Any) -> bool:
    return bool(value.get_element_type().is_integral_number())


def _rounds_down(operation: Any) -> bool:
    """Whether this rounds an integer quotient down, which the runtime has rounded already, towards zero."""
    if operation.get_type_name() != "Floor" or not _is_integer(operation.output(0)):
        return False
    is_signed = bool(operation.get_element_type().is_signed())
    return is_signed and operation.input_value(0).get_node().get_type_name() == "Divide"


def _rounded_down(floor: Any) -> Any:
    """Return an integer quotient rounded down."""
    from openvino import opset13 as ops

    quotient = floor.input_value(0).get_node()
    dividend, divisor = (quotient.input_value(place) for place in (0, 1))
    zero, one = (ops.constant(value, quotient.get_element_type()) for value in (0, 1))
    rest = ops.subtract(dividend, ops.multiply(quotient, divisor))
    has_other_sign = ops.not_equal(ops.less(rest, zero), ops.less(divisor, zero))
    was_cut_off = ops.logical_and(ops.not_equal(rest, zero), has_other_sign)
    return ops.select(was_cut_off, ops.subtract(quotient, one), quotient)


def _is_step(operation: Any) -> bool:
    if operation.get_type_name() == "Convert":  # to an integer: the fraction is cut off
        return _is_integer(operation.output(0)) and not _is_integer(operation.input_value(0))
    return operation.get_type_name() in _STEPS


def _quotients(step: Any) -> Iterator[Any]:
    """Yield the quotients of floats that a step reads."""
    values = [(port.get_source_output(), 0) for port in step.inputs()]
    while values:
        value, passed = values.pop()
        operation = value.get_node()
        if _divisor(operation) is not None:
            yield operation
        elif operation.get_type_name() in _PASSED and passed < _MOST_PASSED:
            values += [(port.get_source_output(), passed + 1) for port in operation.inputs()]


def _divisor(operation: Any) -> Any | None:
    """Return by what an operation divides floats: a value, or the number whose reciprocal it multiplies by. None: it
    does not divide, or is exact, as a division by two is."""
    kind, name = operation.get_type_name(), operation.get_friendly_name().rpartition("/")[2]
    if kind not in ("Divide", "Multiply") or _is_integer(operation.output(0)):
        return None
    divisor = operation.input_value(1)
    factor = _number(divisor)
    if factor is None:
        return divisor if kind == "Divide" else None
    if np.frexp(factor)[0] == np.copysign(0.5, factor):
        return None
    if kind == "Divide":
        return divisor
    whole = np.rint(1 / factor)  # the converter names the product that it makes of a quotient as the quotient
    return whole if name.startswith("Divide") and whole and factor.dtype.type(1 / whole) == factor else None


def _number(value: Any) -> Any | None:
    """Return the number of a constant that holds one; otherwise None."""
    constant = value.get_node()
    if constant.get_type_name() != "Constant" or constant.data.size != 1:
        return None
    return constant.data.reshape(())[()]


def _exact(quotient: Any) -> Any:
    """Return a quotient of floats that is exact where it is a whole number or half of one."""
    from openvino import opset13 as ops

    def number(value: Any) -> Any:
        return ops.constant(value, quotient.get_element_type())

    dividend, divisor = quotient.input_value(0), _divisor(quotient)
    if isinstance(divisor, np.generic):
        divisor = number(divisor)
    half = ops.multiply(ops.round(ops.multiply(quotient, number(2)), "half_to_even"), number(0.5))
    return ops.select(ops.equal(ops.multiply(half, divisor), dividend), half, quotient)
