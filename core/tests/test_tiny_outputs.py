"""Outputs of tiny numbers are compared as such, and what rounding has left of zero is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.models.signatures.signature import describe
from optimum_core.verify import verify
from optimum_core.verify.reference import reference_cases

X = torch.linspace(-1, 1, 15).reshape(3, 5)


class _Model(torch.nn.Module):
    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(x)


def _passes(
    answer: Callable[[torch.Tensor], torch.Tensor], candidate: Callable[[Any], Any], precision: str = "fp32"
) -> bool:
    module = _Model(answer).eval()
    signature = describe(module, name="tiny", samples={"x": X})
    cases = reference_cases(module, signature)
    (spec,) = signature.outputs
    return verify(
        lambda given: {spec.name: np.asarray(candidate(given["x"]), np.float32)}, cases, signature.outputs,
        precision=precision,
    ).passed  # fmt: skip


@pytest.mark.parametrize("size", [1e-7, 1e-9, 1e-20])
def test_zeros_are_not_tiny_numbers(size: float) -> None:
    assert _passes(lambda x: x * size, lambda x: x * np.float32(size))
    assert not _passes(lambda x: x * size, lambda x: x * np.float32(size * 1.01))
    assert not _passes(lambda x: x * size, np.zeros_like)


def test_what_a_narrow_type_makes_zero_fails() -> None:
    assert not _passes(lambda x: x * 1e-9, lambda x: (x * np.float32(1e-9)).astype(np.float16), "fp16")


def test_what_rounding_leaves_of_zero_counts_as_zero() -> None:
    module = _Model(lambda x: x.mean(1) - x.sum(1) / 5 + (x / 3 * 3 - x).sum(1)).eval()
    cases = reference_cases(module, describe(module, name="tiny", samples={"x": X}))
    assert any(0 < np.abs(output).max() < 1e-6 for case in cases for output in case.outputs.values())
    assert not any(case.factors for case in cases)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_types_that_do_not_hold_the_factor_hide_no_rounding(dtype: torch.dtype) -> None:
    """The factor is more than the greatest number of the type."""
    size = 1e-36 if dtype is torch.float32 else 10
    module = _Model(lambda x: (((x + 0.1) / 3 * 3 - x - 0.1) * size).to(dtype)).eval()
    cases = reference_cases(module, describe(module, name="tiny", samples={"x": X}))
    assert any(0 < np.abs(output).max() < 1e-6 for case in cases for output in case.outputs.values())
    assert not any(case.factors for case in cases)
