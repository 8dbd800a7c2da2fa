"""Lengths at which a model's own code decides otherwise are found in the sizes that it compares, and are compared."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimum_core.models.signatures import size_branches, size_records
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.verify.planned_cases import planned_cases


class Scaled(torch.nn.Module):
    """Doubles its input where a condition on it is met."""

    def __init__(self, condition: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if self.condition(x) else 1)


class Odd:
    """An object whose attributes cannot be listed."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


def _scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.nn.functional.interpolate(x.transpose(1, 2), scale_factor=scale)


LENGTH = "axis1_6"
TABLE = {71: True}

CONDITIONS: tuple[tuple[str, Callable[[torch.Tensor], Any], str, set[int]], ...] = (
    ("between", lambda x: 100 < x.shape[1] < 180, LENGTH, {100, 179}),
    ("equal", lambda x: x.shape[1] == 57, LENGTH, {56}),
    ("one of several", lambda x: x.size(1) in (30, 44), LENGTH, {29}),
    ("a remainder", lambda x: x.shape[1] % 7 == 0, LENGTH, {6}),
    ("a function's result", lambda x: min(x.shape[-2], 300) == 300, LENGTH, {299}),
    ("the size of a part", lambda x: x[:, ::2].shape[1] > 40, LENGTH, {80}),
    ("all values", lambda x: x.numel() > 1000, LENGTH, {62}),
    ("a whole shape", lambda x: x.shape[:2] == (2, 40), LENGTH, {39}),
    ("all values, by torch", lambda x: torch.numel(x) > 1000, LENGTH, {62}),
    ("all values, by the shape", lambda x: x.shape.numel() > 1000, LENGTH, {62}),
    ("a dictionary", lambda x: {57: True}.get(x.shape[1], False), LENGTH, {56}),
    ("a set", lambda x: x.shape[1] in {44, 57}, LENGTH, {43}),
    ("a dictionary beside an odd object", lambda x: Odd() and {57: True}.get(x.shape[1], False), LENGTH, {56}),
    ("a quotient", lambda x: x.shape[1] / 2 > 30.2, LENGTH, {60}),
    ("a quotient below", lambda x: 100 / x.shape[1] <= 2, LENGTH, {49}),
    ("a quotient rounded up", lambda x: math.ceil(x.shape[1] / 4) > 15, LENGTH, {60}),
    ("a quotient and more", lambda x: x.shape[1] / 4 + 1 > 16, LENGTH, {60}),
    ("a share", lambda x: x.shape[1] * 0.25 >= 15.1, LENGTH, {60}),
    ("a fraction", lambda x: x.shape[1] > 40.5, LENGTH, {40}),
    ("a square", lambda x: x.shape[1] ** 2 > 1500, LENGTH, {38}),
    ("a greater square", lambda x: x.shape[1] ** 2 > 2e5, LENGTH, {447}),
    ("a square of several", lambda x: 8 * x.shape[1] * x.shape[1] > 100_000, LENGTH, {111}),
    ("a product with itself", lambda x: x.shape[1] * x.shape[1] > 1500, LENGTH, {38}),
    ("large numbers", lambda x: x.shape[1] * 1e12 > 4.05e13, LENGTH, {40}),
    ("a cube", lambda x: x.shape[1] ** 3 > 1e5, LENGTH, {46}),
    ("a number beyond all floats", lambda x: x.shape[1] > 40 and x.shape[1] ** 400 > 1.0, LENGTH, {40}),
    ("a copy of a shape", lambda x: copy.deepcopy({"shape": x.shape})["shape"][1] > 40, LENGTH, {40}),
    ("a shape that is pickled", lambda x: pickle.dumps(x.shape) and x.shape[1] > 40, LENGTH, {40}),
    ("a root", lambda x: x.shape[1] ** 0.5 > 6.1, LENGTH, {37}),
    ("a plain integer", lambda x: int(x.shape[1]) > 40, LENGTH, {40}),
    ("quotient and remainder", lambda x: divmod(x.shape[1], 4)[0] > 15, LENGTH, {63}),
    ("a remainder beside the quotient", lambda x: divmod(x.shape[1], 7)[1] == 0, LENGTH, {6}),
    ("the lowest bits", lambda x: x.shape[1] & 3 == 0, LENGTH, {4, 7}),
    ("bits shifted away", lambda x: x.shape[1] >> 2 > 15, LENGTH, {63}),
    ("one remainder of several", lambda x: x.shape[1] % 30 == 17, LENGTH, {16}),
    ("a remainder of a quotient", lambda x: (x.shape[1] // 16) % 3 == 2, LENGTH, {31}),
    ("a remainder of a number", lambda x: 100 % x.shape[1] == 1, LENGTH, {8}),
    ("a power of two", lambda x: x.shape[1] & (x.shape[1] - 1) == 0, LENGTH, {4, 7}),
    ("a power of two by its logarithm", lambda x: math.log2(x.shape[1]) == int(math.log2(x.shape[1])), LENGTH, {4}),
    ("a greatest common divisor", lambda x: math.gcd(x.shape[1], 36) == 12, LENGTH, {11}),
    ("a count of bits", lambda x: x.shape[1].bit_length() > 6, LENGTH, {63}),
    ("a bit", lambda x: (x.shape[1] >> 5) & 1, LENGTH, {31}),
    ("a bit that is set", lambda x: (x.shape[1] | 8) in (44, 45), LENGTH, {35}),
    ("a square number", lambda x: math.isqrt(x.shape[1]) ** 2 == x.shape[1], LENGTH, {4, 8}),
    ("a share that 32 bits round otherwise", lambda x: int(x.shape[1] * 0.7) > 1e9, LENGTH, {89}),
    ("a picture's scale that 32 bits round otherwise", lambda x: _scaled(x, 0.7).shape[2] > 1e9, LENGTH, {89}),
    ("a range that 32 bits end otherwise", lambda x: len(torch.arange(0, x.shape[1] * 0.1, 0.1)) > 1e9, LENGTH, {5}),
    ("a distance", lambda x: abs(x.shape[1] - 90) < 5, LENGTH, {85}),
    ("a table of the module's file", lambda x: TABLE.get(x.shape[1]), LENGTH, {70}),
    ("the length by Python's function", lambda x: len(x) > 40, "batch", {40}),
    ("many rows", lambda x: 8 < x.shape[0] < 32, "batch", {8, 31}),
    ("some rows", lambda x: x.shape[0] == 5, "batch", {4}),
)


def _described(condition: Callable[[torch.Tensor], Any]) -> ModelSignature:
    return describe(Scaled(condition), name="scaled", samples={"x": torch.randn(2, 6, 8)})


@pytest.mark.parametrize(
    ("condition", "axis", "turns"), [row[1:] for row in CONDITIONS], ids=[r[0] for r in CONDITIONS]
)
def test_both_sides_of_a_comparison_are_compared(
    condition: Callable[[torch.Tensor], Any], axis: str, turns: set[int]
) -> None:
    signature = _described(condition)
    tried = {signature.layout.lengths[axis], *signature.further[axis]}
    assert turns <= set(signature.switches[axis])
    assert {length for turn in turns for length in (turn, turn + 1)} <= tried


def test_a_run_at_much_greater_lengths_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_records, "_PATIENCE", 0.0)
    lengths: list[int] = []

    def condition(x: torch.Tensor) -> bool:
        longer = x.shape[1] > 1000
        x.sum()
        lengths.append(x.size(1))
        return longer

    signature = _described(lambda x: False)
    runs = size_records.cached_comparisons(Scaled(condition), signature.layout, signature.given)
    assert runs({LENGTH: 100}) and not runs({LENGTH: 1001})
    assert set(lengths) == {100}


def test_a_model_that_compares_nothing_is_tried_as_before() -> None:
    assert _described(lambda x: False).switches == {"sequence": ()}


#: A condition on two lengths that neither meets alone, and pairs of (batch, length) that meet it.
JOINT: tuple[tuple[str, Callable[[torch.Tensor], Any], Callable[[int, int], bool]], ...] = (
    ("one longer than the other", lambda x: x.shape[0] > x.shape[1], lambda a, b: a > b),
    ("both equal", lambda x: x.shape[0] == x.shape[1], lambda a, b: a == b),
    ("all values", lambda x: x.numel() > 5000, lambda a, b: 8 * a * b > 5000),
    ("the lesser of two", lambda x: min(x.shape[0], x.shape[1]) > 50, lambda a, b: min(a, b) > 50),
    ("a difference", lambda x: x.shape[1] - x.shape[0] == 94, lambda a, b: b - a == 94),
    ("a common divisor", lambda x: x.shape[1] * x.shape[0] % 60 == 1, lambda a, b: a * b % 60 == 1),
)


@pytest.mark.parametrize(("condition", "is_met"), [row[1:] for row in JOINT], ids=[row[0] for row in JOINT])
def test_pairs_of_lengths_that_meet_a_condition_together_are_compared(
    condition: Callable[[torch.Tensor], Any], is_met: Callable[[int, int], bool]
) -> None:
    signature = _described(condition)
    here = signature.layout.lengths
    pairs = [(lengths["batch"], lengths[LENGTH]) for lengths in signature.joint if {"batch", LENGTH} == set(lengths)]
    met = [(a, b) for a, b in pairs if is_met(a, b)]
    assert met
    assert not any(is_met(a, here[LENGTH]) or is_met(here["batch"], b) for a, b in met)
    drawn = [case.lengths for case in planned_cases(signature)]
    assert all(lengths in drawn for lengths in signature.joint)


def test_pairs_beside_a_long_axis_turn_where_the_condition_does() -> None:
    module = Scaled(lambda x: x.shape[0] * 2000 > x.shape[1])
    signature = describe(module, name="scaled", samples={"x": torch.randn(2, 8000)})
    usual = module.condition(torch.empty(2, 8000))
    lengths = [(pair["batch"], pair["axis1_8000"]) for pair in signature.joint]
    met = [pair for pair in lengths if module.condition(torch.empty(pair)) != usual]
    alone = [(a, 8000) for a, _ in met] + [(2, b) for _, b in met]
    assert met
    assert all(module.condition(torch.empty(pair)) == usual for pair in alone)


def test_conditions_on_one_length_each_make_no_pairs() -> None:
    assert _described(lambda x: x.shape[0] > 20 or x.shape[1] > 40).joint == ()


#: A condition whose parts are looked at one after the other, and lengths of several axes at which it has its other
#: result.
NESTED: tuple[tuple[str, Callable[[torch.Tensor], Any], dict[str, int]], ...] = (
    ("a whole shape", lambda x: x.shape == (3, 33, 8), {"batch": 3, LENGTH: 33}),
    ("one size after the other", lambda x: x.shape[0] == 3 and x.shape[1] > 32, {"batch": 3, LENGTH: 33}),
    ("one of several shapes", lambda x: x.shape[:2] in [(3, 33), (4, 20)], {"batch": 4, LENGTH: 20}),
    ("a smaller size", lambda x: x.shape[0] < 2 and x.shape[1] < 5, {"batch": 1, LENGTH: 4}),
    ("three sizes", lambda x: x.shape == (3, 33, 12), {"batch": 3, LENGTH: 33, "axis2_8": 12}),
)


@pytest.mark.parametrize(("condition", "lengths"), [row[1:] for row in NESTED], ids=[row[0] for row in NESTED])
def test_comparisons_that_others_lead_to_are_followed(
    condition: Callable[[torch.Tensor], Any], lengths: dict[str, int]
) -> None:
    signature = _described(condition)
    assert lengths in signature.joint
    assert lengths in [case.lengths for case in planned_cases(signature)]


def test_python_has_its_own_functions_back() -> None:
    own = builtins.len, builtins.min, math.log2
    _described(lambda x: len(x) > 40)
    assert (builtins.len, builtins.min, math.log2) == own


def test_a_refusal_hides_no_comparison_before_it() -> None:
    def condition(x: torch.Tensor) -> bool:
        if x.shape[1] > 60:
            raise ValueError("too long")
        return x.shape[1] > 40

    assert 40 in _described(condition).switches[LENGTH]


def test_lengths_that_take_long_are_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def longer(x: torch.Tensor) -> bool:
        calls.append(x.shape[1])
        return bool(x.shape[1] > 57)

    def found() -> tuple[int, ...]:
        calls.clear()
        return describe(Scaled(longer).eval(), name="m", samples={"x": torch.randn(2, 6, 3)}).switches[LENGTH]

    assert found() == (57,) and 57 in calls
    monkeypatch.setattr(size_branches, "_CONFIRMING", 0.0)
    monkeypatch.setattr(size_branches, "_TIMES", 0.0)
    assert found() == (57,) and 57 not in calls
