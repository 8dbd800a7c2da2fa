"""Eager models that are returned as they are: they take every length that they took before."""

from __future__ import annotations

import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import SessionError


class Packed(torch.nn.Module):
    """A recurrent layer over rows of stated lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        made, _ = torch.nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return made


def test_no_axis_is_fixed_that_eager_takes_several_lengths_of() -> None:
    module = Packed().eval()
    samples = {"x": torch.randn(3, 5, 4), "lengths": torch.tensor([5, 3, 2])}
    fast = accelerate(module, target="torch", sample_inputs=samples, budget=0)
    assert fast.report is not None
    assert fast.report.fixed == ()
    for length in (1, 2, 9, 40):
        x, lengths = torch.randn(2, length, 4), torch.tensor([length, 1])
        with torch.no_grad():
            assert torch.equal(fast(x, lengths), module(x, lengths))
    with pytest.raises(SessionError, match="lengths"):
        fast(torch.randn(2, 3, 4), torch.tensor([0, 1]))
