"""A module whose output follows a plain attribute."""

from __future__ import annotations

from typing import Any

import torch


class Scaled(torch.nn.Module):
    """A linear layer, and a factor beside it."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.factor = factor
        torch.nn.init.ones_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(x) * self.factor
