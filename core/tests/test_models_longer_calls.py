"""Lengths beyond which eager takes other steps are found, and outputs' axes are named after what they follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from optimum_core.models.signatures import longer_calls
from optimum_core.models.signatures.signature import ModelSignature, describe


class Applied(torch.nn.Module):
    """A function of one tensor."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


LENGTH = "axis1_6"

LOOPS: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor], str, int], ...] = (
    ("split", lambda x: torch.cat([part.cumsum(1) for part in torch.split(x, 300, 1)], 1), LENGTH, 300),
    ("split rows", lambda x: torch.cat([part - part.mean(0) for part in torch.split(x, 50, 0)]), "batch", 50),
    ("range", lambda x: torch.cat([x[:, i : i + 300].cumsum(1) for i in range(0, x.shape[1], 300)], 1), LENGTH, 300),
    ("a tensor of the size", lambda x: 2 * x if torch.tensor(x.shape[1]) > 310 else x, LENGTH, 310),
    ("a stride", lambda x: x * (2 if x.stride(0) > 320 * 8 else 1), LENGTH, 320),
)


def _described(function: Callable[[torch.Tensor], torch.Tensor]) -> ModelSignature:
    return describe(Applied(function), name="applied", samples={"x": torch.randn(2, 6, 8)})


@pytest.mark.parametrize(("loop", "axis", "turn"), [row[1:] for row in LOOPS], ids=[row[0] for row in LOOPS])
def test_both_sides_of_other_steps_are_compared(
    loop: Callable[[torch.Tensor], torch.Tensor], axis: str, turn: int
) -> None:
    signature = _described(loop)
    assert turn in signature.switches[axis]
    assert {turn, turn + 1} <= set(signature.further[axis])


def test_what_cuts_long_inputs_has_an_axis_of_its_own() -> None:
    signature = _described(lambda x: x[:, :500])
    assert signature.outputs[0].shape == ("batch", "output.axis1", "axis2_8")
    assert {500, 501} <= set(signature.further[LENGTH])


def test_what_leaves_numbers_out_has_an_axis_of_its_own() -> None:
    """Numbers that are drawn hold no zeros, so that everything is kept as a rule."""
    signature = _described(lambda x: x[:, (x != 0).any(-1).any(0)])
    assert signature.outputs[0].shape == ("batch", "output.axis1", "axis2_8")


def test_a_step_for_each_position_is_left_to_the_comparisons() -> None:
    signature = _described(lambda x: torch.stack([part * 2 for part in x.unbind(1)], 1))
    assert signature.switches.get(LENGTH, ()) == ()


@pytest.mark.parametrize("count", range(12))
def test_a_call_that_takes_too_long_leaves_gradients_as_they_were(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever function it is stopped: the end of a block without gradients is one too."""
    monkeypatch.setattr(longer_calls._Recorder, "_is_late", lambda self: len(self.functions) > count)
    assert torch.is_grad_enabled()
    _described(LOOPS[0][1])
    try:
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
