"""Lengths at which a model's own code decides otherwise are found in the sizes that it compares, and are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimum_core.models.signatures.signature import ModelSignature, describe


class Scaled(torch.nn.Module):
    """Doubles its input where a condition on it is met."""

    def __init__(self, condition: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if self.condition(x) else 1)


LENGTH = "axis1_6"

CONDITIONS: tuple[tuple[str, Callable[[torch.Tensor], Any], str, set[int]], ...] = (
    ("between", lambda x: 100 < x.shape[1] < 180, LENGTH, {100, 179}),
    ("equal", lambda x: x.shape[1] == 57, LENGTH, {56}),
    ("one of several", lambda x: x.size(1) in (30, 44), LENGTH, {29}),
    ("a remainder", lambda x: x.shape[1] % 7 == 0, LENGTH, {6}),
    ("a function's result", lambda x: min(x.shape[-2], 300) == 300, LENGTH, {299}),
    ("the size of a part", lambda x: x[:, ::2].shape[1] > 40, LENGTH, {73}),
    ("all values", lambda x: x.numel() > 1000, LENGTH, {62}),
    ("a whole shape", lambda x: x.shape[:2] == (2, 40), LENGTH, {39}),
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


def test_a_model_that_compares_nothing_is_tried_as_before() -> None:
    assert _described(lambda x: False).switches == {"sequence": ()}


def test_a_refusal_hides_no_comparison_before_it() -> None:
    def condition(x: torch.Tensor) -> bool:
        if x.shape[1] > 60:
            raise ValueError("too long")
        return x.shape[1] > 40

    assert 40 in _described(condition).switches[LENGTH]
