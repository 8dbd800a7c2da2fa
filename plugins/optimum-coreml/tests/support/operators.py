"""Inputs and checks for the tests of the interpreter's operators, which are compared with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from coremltools.converters.mil.mil import Builder

from optimum_coreml_interpreter.registry import OPERATORS

Tensor = torch.Tensor
mb: Any = Builder
#: The builder of an operator, the function of torch that computes the same, and inputs.
Case = tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


G = (drawn(4, seed=6), drawn(4, seed=7), drawn(4, seed=8), drawn(4, seed=9).abs() + 0.1)
PICTURE = drawn(2, 4, 7, 6, seed=10)
ROWS = drawn(3, 5, 4, seed=11)
N = [item.numpy() for item in G]


def same_padding(x: Tensor, kernel: int, step: int) -> tuple[int, int]:
    """Return the padding before and after the last axis that padding "same" stands for."""
    total = max(0, (-(-x.shape[-1] // step) - 1) * step + kernel - x.shape[-1])
    return total // 2, total - total // 2


def check(case: Case, built: Callable[..., Any], folder: Path) -> None:
    """Compare a program of one operator with torch."""
    build, reference, inputs = case
    made = built(build, [tuple(item.shape) for item in inputs], folder)
    (found,) = made.run({f"x{index}": item for index, item in enumerate(inputs)}).values()
    torch.testing.assert_close(found, reference(*inputs), rtol=1e-4, atol=1e-5)


def untested(module: str, names: Iterable[str]) -> set[str]:
    """Return the operators of a module of the interpreter that no case is named for, up to the first comma."""
    here = {name for name, function in OPERATORS.items() if function.__module__.endswith(f".{module}")}
    return here - {name.partition(",")[0] for name in names}
