"""Lengths beyond which eager takes other steps are found, and outputs' axes are named after what they follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from formula import Formula
from optimum_core.models.inputs.samples import draw
from optimum_core.models.signatures import longer_calls
from optimum_core.models.signatures.signature import ModelSignature, describe

LENGTH = "axis1_6"

LOOPS: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor], str, int], ...] = (
    ("split", lambda x: torch.cat([part.cumsum(1) for part in torch.split(x, 300, 1)], 1), LENGTH, 300),
    ("split rows", lambda x: torch.cat([part - part.mean(0) for part in torch.split(x, 50, 0)]), "batch", 50),
    ("range", lambda x: torch.cat([x[:, i : i + 300].cumsum(1) for i in range(0, x.shape[1], 300)], 1), LENGTH, 300),
    ("a tensor of the size", lambda x: 2 * x if torch.tensor(x.shape[1]) > 310 else x, LENGTH, 310),
    ("a stride", lambda x: x * (2 if x.stride(0) > 320 * 8 else 1), LENGTH, 320),
)


def _described(function: Callable[[torch.Tensor], torch.Tensor]) -> ModelSignature:
    return describe(Formula(function), name="applied", samples={"x": torch.randn(2, 6, 8)})


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


@pytest.mark.parametrize(
    ("keep", "shape"),
    [
        (lambda x: x[:, (x.abs() < 50).all(-1).all(0)], ("batch", "output.axis1", "axis2_8")),
        (lambda x: x[(x.abs() < 50).all(-1).all(-1)], ("output.axis0", LENGTH, "axis2_8")),
        (lambda x: x[:, (x.abs() < 50).all(-1).all(0).nonzero()[:, 0]], ("batch", "output.axis1", "axis2_8")),
        (lambda x: x[0, :, 0].unique(), ("output.axis0",)),
        (lambda x: torch.masked_select(x[0, :, 0], x[0, :, 0].abs() < 50), ("output.axis0",)),
        (lambda x: x[(x.abs() < 50)].view(x.shape), ("batch", LENGTH, "axis2_8")),
        (lambda x: x.clone().index_put((x > 9,), torch.tensor(0.0)), ("batch", LENGTH, "axis2_8")),
    ],
    ids=["mask", "rows", "nonzero", "unique", "select", "all", "put"],
)
def test_what_is_kept_by_its_value_has_an_axis_of_its_own(
    keep: Callable[[torch.Tensor], torch.Tensor], shape: tuple[str, ...]
) -> None:
    """At values that are drawn, all is kept."""
    assert _described(keep).outputs[0].shape == shape


def test_a_step_for_each_position_is_left_to_the_comparisons() -> None:
    signature = _described(lambda x: torch.stack([part * 2 for part in x.unbind(1)], 1))
    assert signature.switches.get(LENGTH, ()) == ()


def test_no_call_is_larger_than_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = list[int]()

    def watched(*args: Any) -> dict[str, Any]:
        drawn = draw(*args)
        sizes.append(sum(array.size for array in drawn.values()))
        return drawn

    monkeypatch.setattr(longer_calls, "draw", watched)
    monkeypatch.setattr(longer_calls, "_MOST_NUMBERS", 10000)
    signature = _described(LOOPS[0][1])
    assert 5000 < max(sizes) <= 10000
    assert LOOPS[0][3] in signature.switches[LENGTH]


@pytest.mark.parametrize("count", range(12))
def test_a_call_that_takes_too_long_leaves_gradients_as_they_were(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever function it is stopped: the end of a block without gradients is one too."""
    monkeypatch.setattr(longer_calls._FunctionRecorder, "_is_late", lambda self: len(self.functions) > count)
    assert torch.is_grad_enabled()
    _described(LOOPS[0][1])
    try:
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
