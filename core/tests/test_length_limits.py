"""Notes of a report on lengths that the chosen form refuses and the model takes."""

from __future__ import annotations

import torch

from optimum_core import accelerate


class Window(torch.nn.Module):
    """A sum over a window of 40 positions: a longer text is cut."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 40:
            return x[:, :40].sum(1)
        return x.sum(1) * 2


def test_a_report_tells_of_lengths_that_are_refused() -> None:
    fast = accelerate(
        Window().eval(), target="ort", sample_inputs={"x": torch.randn(3, 5, 4)}, shapes=[{"batch": 2}], budget=0
    )
    assert fast.report is not None
    assert [note for note in fast.report.notes if note.startswith("axis 1 of input 'x' takes lengths up to 40: ")]
    assert not [note for note in fast.report.notes if note.startswith("batch takes")]
