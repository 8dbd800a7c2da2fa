"""A model that computes otherwise at some sizes is never returned for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import InputError


class Scaled(torch.nn.Module):
    """Doubles texts of a middle length, and batches of five."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if 100 < x.shape[1] < 180 or x.shape[0] == 5 else 1)


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_what_is_not_refused_is_right(target: str, tmp_path: Path) -> None:
    model = Scaled().eval()
    samples = {"x": torch.randn(2, 6, 8)}
    fast = accelerate(model, target=target, sample_inputs=samples, budget=2, cache_dir=tmp_path)
    taken = []
    for shape in [(2, 9), (3, 90), (2, 100), (2, 101), (2, 150), (2, 250), (4, 9), (5, 9), (6, 9)]:
        x = torch.randn(*shape, 8)
        try:
            assert torch.equal(fast(x), model(x)), shape
            taken.append(shape)
        except InputError as error:
            assert "the model computes otherwise" in str(error)
    assert taken == [(2, 9), (3, 90), (2, 100), (4, 9)]
