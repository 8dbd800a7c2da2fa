"""Arithmetic in bfloat16, written out in float32: the same values, and the same promotions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from optimum_core.models.exporting.rewriting.narrow_floats import WideNarrowFloats

SLOPES, PLACES, WIDE = torch.tensor([0.3, 0.7, 0.11]), torch.arange(4000), torch.tensor([1.1, 2.3, 0.7])


@pytest.mark.parametrize(
    "compute",
    [
        lambda: SLOPES[:, None].bfloat16() * PLACES,
        lambda: (SLOPES.to(torch.bfloat16) + PLACES[300:303]).reshape(3, 1).float(),
        lambda: SLOPES.to(dtype=torch.bfloat16) * 2.5,
        lambda: SLOPES.bfloat16() * WIDE,
        lambda: torch.tensor([torch.inf, -torch.inf, 3.4e38, -3.39e38, 3e38, 1.1e-39, 1e30]).bfloat16() * 1,
        lambda: SLOPES.bfloat16() * float("inf") + torch.finfo(torch.bfloat16).min,
        lambda: (SLOPES.bfloat16() * 257).to(torch.float32).masked_fill(WIDE > 2, torch.finfo(torch.float32).min) / 3,
    ],
)
def test_values_are_those_of_torch(compute: Callable[[], torch.Tensor]) -> None:
    wanted = compute()
    with WideNarrowFloats():
        found = compute()
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted.float())
