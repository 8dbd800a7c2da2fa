"""Corners of MIL's specification: what it defines there is computed, and what it does not is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optimum_coreml_interpreter.registry import OPERATORS, UndefinedError

X = torch.tensor([[-2.0, 3.0, 4.0], [5.0, -6.0, 7.0]])


def whole(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [((1, 0, -1, 0), (1, 1, 2, 3)), ((0, 2, 0), (1, 2, 3)), ((-1, 0), (2, 3)), ((0,), (3,))],
)
def test_zero_in_a_shape_counts_from_the_last_axis_since_ios17(wanted: tuple[int, ...], found: tuple[int, ...]) -> None:
    x = X if len(wanted) > 1 else X[:1]
    assert OPERATORS["reshape"](x, whole(*wanted), opset=7).shape == found
    if len(wanted) != x.ndim:
        with pytest.raises(UndefinedError, match="0 in the shape"):
            OPERATORS["reshape"](x, whole(*wanted), opset=6)


@pytest.mark.parametrize("name", ["leaky_relu", "prelu"])
def test_a_slope_may_have_more_bits(name: str) -> None:
    """Since iOS17 `alpha` has a type of its own."""
    x = (X[0, 0] if name == "leaky_relu" else X[None]).half()
    slope = torch.tensor(0.1) if name == "leaky_relu" else torch.tensor([0.1, 0.2])
    result = OPERATORS[name](x, slope)
    assert result.dtype == torch.float16
    assert float(result.reshape(-1)[0]) == pytest.approx(-0.2, rel=1e-3)


def test_a_size_is_the_length_by_the_factor_in_32_bits() -> None:
    """0.7 in 32 bits is less than 0.7; ten times it, in 32 bits, is 7."""
    x = torch.arange(200.0).reshape(1, 1, 10, 20)
    for name in ("upsample_nearest_neighbor", "upsample_bilinear"):
        found = OPERATORS[name](x, scale_factor_height=torch.tensor(0.7), scale_factor_width=torch.tensor(0.7))
        assert found.shape == (1, 1, 7, 14)


_ROWS = torch.zeros(2, 3)
#: operator, what it is given, and what the error says.
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a power that is no whole number": ("pow", {"x": whole(2, 3), "y": whole(2, -1)}, "negative power"),
    "indices of topk": ("topk", {"x": X, "output_indices_dtype": "uint2"}, "type 'uint2'"),
    "indices of argsort": ("argsort", {"x": X, "output_dtype": "uint2"}, "type 'uint2'"),
    "a window of which nothing is in the picture": (
        "max_pool",
        {"x": X[None], "kernel_sizes": whole(1), "strides": whole(3), "pad_type": "valid", "ceil_mode": True},
        "a window that begins at 3 of 3",
    ),
    "several types in a stack": ("stack", {"values": [X, X.half()], "axis": whole(0)}, "several types"),
    "updates that only fit in number": (
        "scatter",
        {"data": _ROWS, "indices": whole(0, 1, 2), "updates": torch.ones(3, 2), "axis": 1, "opset": 8},
        r"updates of \(3, 2\) for places of \(2, 3\)",
    ),
    "updates of rows that only fit in number": (
        "scatter_nd",
        {"data": torch.zeros(2, 2, 3), "indices": whole(0, 1)[:, None], "updates": torch.ones(2, 3, 2), "opset": 8},
        r"updates of \(2, 3, 2\) for places of \(2, 2, 3\)",
    ),
    "indices beyond another axis": (
        "scatter_along_axis",
        {"data": _ROWS, "indices": whole(2, 2)[None], "updates": torch.ones(1, 2), "axis": 1, "opset": 8},
        r"of \(1, 2\) for places of \(2, 2\)",
    ),
    "updates unlike indices": (
        "scatter_along_axis",
        {"data": _ROWS, "indices": torch.zeros(2, 3).int(), "updates": torch.ones(3, 2), "axis": 1, "opset": 8},
        r"updates of \(3, 2\) for places of \(2, 3\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_defined_is_an_error(name: str) -> None:
    kind, given, said = WRONG[name]
    with pytest.raises(UndefinedError, match=said):
        OPERATORS[kind](**given)


def test_whole_numbers_have_powers() -> None:
    assert OPERATORS["pow"](whole(-2, 3), whole(3, 2)).tolist() == [-8, 9]
