"""Models that change their inputs in place, which an accelerated model does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import UnprovedWarning

ONCE = [{"batch": 2}]


class Clamps(torch.nn.Module):
    """A first layer that works in place, as `torch.nn.ReLU(inplace=True)` does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.ReLU(inplace=True)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(self.first(x))
        return made


def test_it_is_said_that_inputs_stay_as_they_are(tmp_path: Path) -> None:
    module = Clamps().eval()
    with pytest.warns(UnprovedWarning, match=r"changes its inputs in place \(x\)"):
        fast = accelerate(module, target="ort", sample_inputs={"x": torch.randn(2, 4)}, shapes=ONCE, budget=0)
    mine, eagers = -torch.ones(2, 4), -torch.ones(2, 4)
    with torch.no_grad():
        assert torch.allclose(fast(mine), module(eagers), atol=1e-6)
    assert (mine == -1).all()
    assert (eagers == 0).all()
    assert fast.report is not None
    assert fast.report.inputs_left == ("x",)
    fast.save_pretrained(tmp_path / "saved")
    assert "inputs stay as they are" in repr(fast)
    assert "inputs stay as they are" in repr(load(tmp_path / "saved"))


def test_eager_itself_changes_them(recwarn: pytest.WarningsRecorder) -> None:
    fast = accelerate(Clamps().eval(), target="torch", sample_inputs={"x": torch.randn(2, 4)}, shapes=ONCE)
    assert fast.report is not None
    assert fast.report.inputs_left == ()
    assert not [item for item in recwarn if issubclass(item.category, UnprovedWarning)]
