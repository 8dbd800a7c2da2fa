"""Rounding of lengths in Python, kept in a trace.

`math.ceil(share * length)` turns a traced length into a number, which the trace then keeps for all others: NLLB-MoE
computes so how many tokens an expert takes, LED how many it pads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def traced_rounding() -> Iterator[None]:
    """Let `math.ceil` and `math.floor` of traced numbers give traced numbers while the block runs."""
    before = math.ceil, math.floor
    math.ceil, math.floor = _rounding(math.ceil, torch.ceil), _rounding(math.floor, torch.floor)
    try:
        yield
    finally:
        math.ceil, math.floor = before


def is_traced() -> bool:
    """Whether `torch.jit.trace`, which the TorchScript exporter uses too, records what is computed now."""
    return torch._C._get_tracing_state() is not None


def _rounding(of_numbers: Callable[[Any], int], of_tensors: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def rounded(number: Any, /) -> Any:
        if not isinstance(number, torch.Tensor) or not is_traced():
            return of_numbers(number)
        return of_tensors(number).to(torch.int64) if number.is_floating_point() else number

    return rounded
