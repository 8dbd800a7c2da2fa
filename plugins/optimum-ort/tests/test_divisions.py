"""Whole numbers divided by -1: in a process of its own, since ONNX Runtime by itself ends it (as eager does)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from optimum_core import accelerate

_PROGRAM = """
import sys
import numpy as np
from optimum_core import load
from optimum_core.errors import SessionError

def numbers(*values):
    return np.array(values, np.int64)

fast = load(sys.argv[1])
least = np.iinfo(np.int64).min
quotient, rest = fast(a=numbers(least, 7, -7, least), b=numbers(-1, -1, 2, 2))
assert quotient.tolist() == [least, -7, -3, least // 2], quotient
assert rest.tolist() == [0, 0, 1, 0], rest
try:
    fast(a=numbers(1), b=numbers(0))
except SessionError as error:
    assert "by zero" in str(error), error
else:
    raise AssertionError("a division by zero was answered")
"""


class Quotients(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.div(a, b, rounding_mode="trunc"), a % b


def test_the_least_number_is_divided_by_minus_one(tmp_path: Path) -> None:
    numbers = {"a": torch.tensor([7, -7, 9]), "b": torch.tensor([2, 3, -1])}
    with accelerate(Quotients().eval(), target="ort", level="all", sample_inputs=numbers, budget=0) as fast:
        fast.save_pretrained(tmp_path / "out")
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
