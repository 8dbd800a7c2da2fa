"""A layer behind one check of several kinds: of its input's values, of its length, of its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from transformers.utils.import_utils import torch_compilable_check

log = logging.getLogger(__name__)


class Checked(torch.nn.Module):
    """A layer of four numbers.

    Args:
        check: checks the input, and may look at the module.
    """

    def __init__(self, check: Callable[[Any, torch.Tensor], None]) -> None:
        super().__init__()
        self.check, self.linear = check, torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.check(self, x)
        made: torch.Tensor = self.linear(x)
        return made


def of_sums(module: Any, x: torch.Tensor) -> None:
    assert (x[..., 0] + x[..., 1]).max() != 1000, "1000 together"


def by_error(module: Any, x: torch.Tensor) -> None:
    if len(x[x == 1]) > x.numel() / 2:
        raise ValueError("more than half of them are ones")


def by_torch(module: Any, x: torch.Tensor) -> None:
    torch._assert_async((x[..., 0] != 0.125).any(), "all begin alike")


def by_transformers(module: Any, x: torch.Tensor) -> None:
    torch_compilable_check(
        (x[..., 0] != 0.125).any(),
        "all begin alike",
    )


def by_count(module: Any, x: torch.Tensor) -> None:
    if x.unique().numel() == 7:  # type: ignore[no-untyped-call] # of torch
        raise ValueError("seven of them")


def of_each_value(module: Any, x: torch.Tensor) -> None:
    if (x > 1000).any():
        raise ValueError("too large")


def of_length(module: Any, x: torch.Tensor) -> None:
    assert x.shape[-1] == 4


def of_weights(module: Any, x: torch.Tensor) -> None:
    assert module.linear.weight.max() < 1000


def that_warns(module: Any, x: torch.Tensor) -> None:
    if x.max() > 1000:
        log.warning("large")
