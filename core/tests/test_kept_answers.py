"""Eager is asked once for equal inputs while a model is described."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optimum_core.models.eager import kept_answers
from optimum_core.models.eager.kept_answers import answers_kept, ask_once


class Counting(torch.nn.Module):
    """Keeps what it was called with, copies and all."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[torch.Tensor]()

    def __deepcopy__(self, memo: object) -> Counting:
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(x.clone())
        return x + 1


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_equal_inputs_are_asked_once() -> None:
    module = Counting().eval()
    with answers_kept():
        first = ask_once(module, {"x": X})
        before = len(module.calls)
        assert ask_once(module, {"x": X.copy()}) is first and len(module.calls) == before


@pytest.mark.parametrize("other", [X + 1, X.astype(np.float64), X.reshape(3, 2), np.asfortranarray(X)])
def test_other_values_types_shapes_and_orders_are_asked_anew(other: np.ndarray) -> None:
    module = Counting().eval()
    with answers_kept():
        ask_once(module, {"x": X})
        before = len(module.calls)
        assert torch.equal(ask_once(module, {"x": other}), torch.from_numpy(other) + 1)
        assert len(module.calls) == before + 1


def test_nothing_is_kept_outside_or_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Counting().eval()
    assert ask_once(module, {"x": X}) is not ask_once(module, {"x": X})
    monkeypatch.setattr(kept_answers, "_MOST_NUMBERS", 10)
    with answers_kept():
        first, second = ask_once(module, {"x": X}), ask_once(module, {"x": X + 1})
        assert ask_once(module, {"x": X + 1}) is second
        assert ask_once(module, {"x": X}) is not first
