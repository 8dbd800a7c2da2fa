"""Values far from the samples': what rounds whole numbers is wrong, what rounding alone changes is noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from formula import Formula, PairFormula
from optimum_core.errors import SessionError, SourceError
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.signature import describe
from optimum_core.types import Fidelity
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.bound_cases import ALL_VALUES
from optimum_core.verify.edge_value_cases import HALVES, LONG_HALVES
from optimum_core.verify.large_value_cases import ENDS, LARGE, LEAST, NEGATIVE, WIDE_FLOATS
from optimum_core.verify.reference import reference_cases

Function = Callable[..., Any]


def _cases(function: Function, x: torch.Tensor) -> tuple[Any, tuple[ReferenceCase, ...]]:
    module = Formula(function).eval()
    signature = describe(module, name="formula", samples={"x": x})
    return signature, reference_cases(module, signature)


def _names(function: Function, x: torch.Tensor) -> list[str]:
    return [
        case.name
        for case in _cases(function, x)[1]
        if case.large and case.name not in (HALVES, LONG_HALVES, ALL_VALUES)
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 2, bool((x > 100).any())),
        lambda x: (x * 2, x[:, :1] if (x > 100).any() else None),
        lambda x: {"y": x * 2, **({"far": x} if (x.abs() > 100).any() else {})},
    ],
)
def test_what_depends_on_values_that_samples_do_not_have_is_refused(function: Function) -> None:
    with pytest.raises(SourceError, match="what it returns depends on the call"):
        _cases(function, torch.linspace(-1, 1, 12).reshape(3, 4))


def _compared(function: Function, export: Function, x: torch.Tensor, precision: str = "fp32") -> Fidelity:
    signature, cases = _cases(function, x)
    exported = Formula(export).eval()

    def run(inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return eager_outputs(exported, inputs)

    return verify(run, cases, signature.outputs, precision=precision)


NUMBERS = torch.arange(-10, 10).reshape(2, 10)
FLOATS = torch.linspace(-1, 2, 16).reshape(2, 8)


@pytest.mark.parametrize(("x", "wide"), [(NUMBERS, {LARGE["i"], ENDS["i"]}), (FLOATS, set[str]())])
def test_wide_are_whole_numbers_of_more_bits_than_some_runtimes_have(x: torch.Tensor, wide: set[str]) -> None:
    assert {case.name for case in _cases(lambda x: x // 2, x)[1] if case.wide} == wide


def test_whole_numbers_computed_in_floats_are_wrong() -> None:
    def in_floats(x: torch.Tensor) -> torch.Tensor:
        return (x.float() / 7).floor().long()

    def exact(x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, 7, rounding_mode="floor")

    fidelity = _compared(exact, in_floats, NUMBERS)
    assert [item.case for item in fidelity.results if not item.passed] == [LARGE["i"], ENDS["i"]]
    assert _compared(exact, exact, NUMBERS).passed


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_division_towards_zero_is_wrong_below_zero(dtype: torch.dtype) -> None:
    def towards_zero(x: torch.Tensor) -> torch.Tensor:
        return torch.div(x, 3, rounding_mode="trunc")

    counts = torch.arange(20, dtype=dtype).reshape(2, 10)
    fidelity = _compared(lambda x: x // 3, towards_zero, counts)
    expected = [NEGATIVE["i"], *([LEAST["i"]] if dtype is torch.int8 else [])]
    assert [item.case for item in fidelity.results if not item.passed] == expected
    assert _compared(lambda x: x // 3, lambda x: x // 3, counts).passed


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.uint8, 0), (torch.int8, -128), (torch.int16, -(2**15)), (torch.int64, None)]
)
def test_narrow_whole_numbers_overflow_as_in_eager(dtype: torch.dtype, least: int | None) -> None:
    def saturated(x: torch.Tensor) -> torch.Tensor:
        bounds = torch.iinfo(x.dtype)
        return (x.double() * 3).clamp(bounds.min, bounds.max).to(x.dtype) if least is not None else x * 3

    def tripled(x: torch.Tensor) -> torch.Tensor:
        return x * 3

    fidelity = _compared(tripled, saturated, torch.arange(10, dtype=dtype).reshape(2, 5))
    expected = {None: set(), 0: {LARGE["i"]}}.get(least, {LARGE["i"], NEGATIVE["i"], LEAST["i"]})
    assert {item.case for item in fidelity.results if not item.passed} == expected


@pytest.mark.parametrize(("dtype", "first"), [(torch.uint8, 11), (torch.int8, -2), (torch.int16, -2)])
def test_differences_below_a_narrow_type_overflow_as_in_eager(dtype: torch.dtype, first: int) -> None:
    def saturated(x: torch.Tensor) -> torch.Tensor:
        return (x.int() - 5).clamp(min=torch.iinfo(dtype).min).to(dtype)

    for rows in (1, 2):  # with so few values, those drawn from the whole type seldom lie near its end
        samples = torch.arange(first, first + rows * 2, dtype=dtype).reshape(rows, 2)
        fidelity = _compared(lambda x: x - 5, saturated, samples)
        assert LEAST["i"] in {item.case for item in fidelity.results if not item.passed}


def test_floats_below_zero_are_compared_where_the_samples_have_none() -> None:
    fidelity = _compared(torch.floor, torch.trunc, FLOATS + 1.5)
    assert [item.case for item in fidelity.results if not item.passed] == [NEGATIVE["f"]]
    assert NEGATIVE["f"] not in _names(torch.floor, FLOATS)  # these are of both signs already


def test_what_rounding_alone_changes_is_noted() -> None:
    def other(x: torch.Tensor) -> torch.Tensor:
        return (x.double() * 3.1).sin().float()

    fidelity = _compared(lambda x: (x * 3.1).sin(), other, FLOATS)
    assert fidelity.passed
    (note,) = fidelity.notes
    assert note.startswith(LARGE["f"])
    assert "rounding alone" in note


def test_an_answer_that_overflows_is_wrong() -> None:
    fidelity = _compared(lambda x: x.abs().sqrt(), lambda x: (x**8).abs() ** 0.0625, FLOATS)
    assert [item.case for item in fidelity.results if not item.passed] == [LARGE["f"]]
    assert _compared(lambda x: x.abs().sqrt(), lambda x: (x**8).abs() ** 0.0625, FLOATS, precision="fp16").passed


def test_whole_numbers_made_of_floats_are_compared_beyond_32_bits() -> None:
    def in_32_bits(x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-(2.0**31), 2.0**31 - 1).long() % 5

    fidelity = _compared(lambda x: x.long() % 5, in_32_bits, FLOATS)
    assert [item.case for item in fidelity.results if not item.passed] == [WIDE_FLOATS]
    assert WIDE_FLOATS not in {case.name for case in _cases(lambda x: x.int() % 5 + x.long().shape[0], NUMBERS)[1]}
    assert WIDE_FLOATS not in {case.name for case in _cases(lambda x: x * 2, FLOATS)[1]}


def test_an_output_that_overflows_hides_no_other() -> None:
    def overflowing(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.exp(), (x.exp() + 1).log()

    fidelity = _compared(lambda x: (x.exp(), torch.nn.functional.softplus(x)), overflowing, FLOATS)
    wrong = {(item.case, item.output) for item in fidelity.results if not item.passed}
    assert wrong == {(LARGE["f"], "output.1")}


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: torch.arange(30.0).index_select(0, x.flatten()), torch.arange(8).reshape(2, 4)),  # indices
        (lambda x: x * 3, torch.tensor([[0, 1, 1], [1, 0, 1]])),  # switches
        (lambda x: x.exp(), FLOATS),  # infinite in eager
        (lambda x: sum(range(int(x.abs().max()))) + x * 0, NUMBERS),  # it would count for hours
    ],
)
def test_what_eager_does_not_answer_is_no_case(
    function: Function, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimum_core.models.eager.bounded_calls._PATIENCE", 0.3)
    assert _names(function, x) == []


def _pair_failures(
    function: Function, export: Function, x: torch.Tensor, y: torch.Tensor, refuses: tuple[type[Exception], ...] = ()
) -> list[str]:
    """Return the cases in which an export is wrong.

    Args:
        refuses: errors of the export that are raised as a backend's.
    """
    signature = describe(PairFormula(function).eval(), name="pair", samples={"x": x, "y": y})
    cases, exported = reference_cases(PairFormula(function).eval(), signature), PairFormula(export).eval()

    def run(inputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        try:
            return eager_outputs(exported, inputs)
        except refuses as error:
            raise SessionError("x", str(error), "y") from error

    return [item.case for item in verify(run, cases, signature.outputs, precision="fp32").results if not item.passed]


COUNTS, PARTS = torch.arange(20, 40).reshape(2, 10), torch.arange(1, 21).reshape(2, 10)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_quotient_of_numbers_above_zero_is_compared_below_zero_too(dtype: torch.dtype) -> None:
    def towards_zero(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.div(x, y, rounding_mode="trunc")

    below = NEGATIVE["i"]
    failures = _pair_failures(lambda x, y: x // y, towards_zero, COUNTS.to(dtype), PARTS.to(dtype), (RuntimeError,))
    assert failures == [below, f"{below} in x", f"{below} in y"]


@pytest.mark.parametrize(("dtype", "wide"), [(torch.int64, torch.float64), (torch.int32, torch.float32)])
def test_whole_numbers_are_exact_up_to_the_end_of_their_type(dtype: torch.dtype, wide: torch.dtype) -> None:
    def in_floats(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if (y == 0).any():
            raise RuntimeError("by zero")
        return torch.fmod(x.to(wide), y.to(wide)).to(dtype)

    failures = _pair_failures(torch.fmod, in_floats, COUNTS.to(dtype), PARTS.to(dtype), (RuntimeError,))
    assert ENDS["i"] in failures
    assert set(failures) <= {ENDS["i"], LARGE["i"]}
    assert not _pair_failures(torch.fmod, torch.fmod, COUNTS.to(dtype), PARTS.to(dtype), (RuntimeError,))


def test_a_call_that_eager_refuses_has_to_be_refused() -> None:
    def unguarded(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y == 0, 7, x // torch.where(y == 0, 1, y))

    def clipped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.flatten()[y.clamp(-x.numel(), x.numel() - 1)]

    assert _pair_failures(torch.floor_divide, unguarded, COUNTS, PARTS) == ["a zero, which eager refuses"]
    places = torch.tensor([[0, 1, 2], [2, 0, 1]])
    far = [f"an index too {how}, which eager refuses" for how in ("large", "small")]
    # Where one length decides on the bound, the check of a call refuses these.
    assert _pair_failures(lambda x, y: x.flatten()[y], clipped, FLOATS, places) == far
    assert not _pair_failures(lambda x, y: x.gather(1, y), lambda x, y: x.gather(1, y), FLOATS, places, (RuntimeError,))


@pytest.mark.parametrize(
    ("function", "limits"),
    [
        (lambda x: torch.nn.functional.one_hot(x, 5), (0, 4)),
        (lambda x: torch.arange(7.0)[x], (-7, 6)),
        (lambda x: torch.arange(7.0).take(x) * x.shape[0], (-7, 6)),
        (lambda x: x.flatten()[x], (None, None)),  # as many as there are: the lengths decide
        (lambda x: x * 3, (None, None)),
        (lambda x: torch.arange(int(x.max())).sum() + x, (None, None)),  # a number of its own
    ],
)
def test_what_eager_takes_is_found_without_tables(function: Function, limits: tuple[int | None, int | None]) -> None:
    signature, _ = _cases(function, torch.tensor([[0, 1, 2, 3], [3, 2, 0, 1]]))
    assert (signature.inputs[0].least, signature.inputs[0].greatest) == limits
