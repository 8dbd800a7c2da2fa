"""Parts of conjugates, whose signs torch leaves for later, are outputs as any other."""

from __future__ import annotations

import torch

from optimum_core import accelerate


class _Conjugate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x, x * 2).conj().imag


def test_a_part_of_a_conjugate_is_returned() -> None:
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    fast = accelerate(_Conjugate().eval(), target="torch", sample_inputs={"x": x}, budget=0)
    assert torch.equal(fast(x), -2 * x)
    assert (fast(x.numpy()) == -2 * x.numpy()).all()
