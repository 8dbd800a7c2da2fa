"""Functions of one or two tensors as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Formula(torch.nn.Module):
    """A module without weights that calls a function on its input: `Formula(torch.exp)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class PairFormula(Formula):
    """A formula of two inputs, `x` and `y`."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:  # type: ignore[override]
        return self.function(x, y)


class MaskedFormula(Formula):
    """A formula of `x` and of a mask, `keep`."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> Any:  # type: ignore[override]
        return self.function(x, keep)
