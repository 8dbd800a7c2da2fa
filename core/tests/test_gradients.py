"""Models that answer otherwise while gradients are recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import UnprovedWarning
from optimum_core.models.signatures.signature import describe
from optimum_core.verify.gradients import minds_gradients
from padded_encoder import PaddedEncoder

ONCE = [{"batch": 2}]


class Asks(torch.nn.Module):
    """A module that asks whether gradients are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(x)
        return made * 2 if torch.is_grad_enabled() else made


class Writes(Asks):
    """A module that runs only without gradients."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.linear.bias.zero_()
        made: torch.Tensor = self.linear(x)
        return made


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_gradients_change_is_found() -> None:
    torch.manual_seed(0)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for module, samples, found in (
        (Asks().eval(), {"x": torch.randn(2, 4)}, "output"),
        (PaddedEncoder().eval(), {"x": torch.randn(2, 5, 8), "padding": padding}, "output"),
        (Writes().eval(), {"x": torch.randn(2, 4)}, None),
        (torch.nn.Linear(4, 4).eval(), {"input": torch.randn(2, 4)}, None),
    ):
        assert minds_gradients(module, describe(module, name="module", samples=samples)) == found, module


def test_a_transformer_minds_none(tiny: Callable[..., Any]) -> None:
    model = tiny("bert").eval()
    assert minds_gradients(model, describe(model, name="bert")) is None


def test_it_is_said_wherever_the_model_is_seen(tmp_path: Path) -> None:
    module, x = Asks().eval(), torch.randn(2, 4)
    with pytest.warns(UnprovedWarning, match="while gradients are recorded"):
        fast = accelerate(module, target="ort", sample_inputs={"x": x}, shapes=ONCE, budget=0)
    with torch.no_grad():
        assert torch.allclose(fast(x), module(x), atol=1e-6)
    fast.save_pretrained(tmp_path / "saved")
    assert "under no_grad only" in repr(fast) and "under no_grad only" in repr(load(tmp_path / "saved"))
    assert fast.report is not None and any("torch.no_grad()" in note for note in fast.report.notes)
