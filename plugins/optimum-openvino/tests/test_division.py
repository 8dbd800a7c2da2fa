"""Quotients of lengths and of values, where OpenVINO's own are off by as much as rounding down makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as ops

from optimum_openvino.division import exact_division

NUMBERS = np.arange(-600, 600)
#: Divisors with reciprocals rounded up and down, a power of two, and one beyond most of the numbers.
DIVISORS = (2, 3, 7, 14, 41, 49, 1000)

_ROUNDING: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "down": (ops.floor, np.floor),
    "up": (ops.ceiling, np.ceil),
    "to the nearest": (lambda value: ops.round(value, "half_to_even"), np.rint),
    "towards zero": (lambda value: ops.convert(value, "i64"), np.trunc),
    "after a sum": (lambda value: ops.floor(ops.add(value, np.float32(1))), lambda value: np.floor(value + 1)),
    "in a comparison": (lambda value: ops.greater_equal(value, np.float32(3)), lambda value: value >= 3),
}


def computed(model: Any, *values: Any) -> Any:
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(list(values))[0]


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("rounding", _ROUNDING)
@pytest.mark.parametrize("is_constant", [True, False], ids=["by a constant", "by a value"])
def test_quotients_of_floats_are_rounded_as_exact_ones(rounding: str, divisor: int, is_constant: bool) -> None:
    rounded, expected = _ROUNDING[rounding]
    number, by = ops.parameter([-1], np.float32), ops.parameter([1], np.float32)
    quotient = ops.divide(number, ops.constant(np.float32(divisor)) if is_constant else by)
    model = openvino.Model([rounded(quotient)], [number] if is_constant else [number, by])
    exact_division(model)
    values = (NUMBERS.astype(np.float32), *([] if is_constant else [np.asarray([divisor], dtype=np.float32)]))
    np.testing.assert_array_equal(computed(model, *values), expected(NUMBERS / divisor))


class Quotients(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        down = [torch.ones(1) * (sign * length // divisor) for divisor in DIVISORS for sign in (1, -1)]
        return torch.cat([*down, torch.ones(1) * ((length - 50) // 7), torch.ones(1) * (-287 // length)])


class Divided(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = [torch.div(x, by, rounding_mode=mode) for by in DIVISORS for mode in ("floor", "trunc")]
        return torch.stack([*rounded, 287 // (x.abs() + 1), -287 // (x.abs() + 1)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("is_exported", [True, False], ids=["exported", "traced"])
def test_quotients_of_lengths_are_those_of_python(is_exported: bool) -> None:
    module, x = Quotients().eval(), torch.zeros(1, 12)
    lengths = {1: torch.export.Dim("length", min=2, max=1000)}
    program = torch.export.export(module, (x,), dynamic_shapes=(lengths,)) if is_exported else module
    model = openvino.convert_model(program, **({} if is_exported else {"example_input": x}))
    exact_division(model)
    for length in (2, 7, 12, 21, 41, 42, 49, 77, 82, 84, 287, 410, 999):
        values = torch.zeros(1, length)
        np.testing.assert_array_equal(computed(model, values.numpy()), module(values).numpy(), str(length))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quotients_of_integers_are_those_of_torch() -> None:
    module, values = Divided().eval(), torch.from_numpy(NUMBERS)
    model = openvino.convert_model(module, example_input=torch.arange(8))
    exact_division(model)
    np.testing.assert_array_equal(computed(model, NUMBERS), module(values).numpy())


def test_a_product_that_the_model_computes_itself_stays() -> None:
    """It multiplies in eager too, and rounds as it comes out there."""
    number = ops.parameter([-1], np.float32)
    factor = np.float32(1 / 7)
    model = openvino.Model([ops.floor(ops.multiply(number, ops.constant(factor)))], [number])
    exact_division(model)
    values = NUMBERS.astype(np.float32)
    np.testing.assert_array_equal(computed(model, values), np.floor(values * factor))
