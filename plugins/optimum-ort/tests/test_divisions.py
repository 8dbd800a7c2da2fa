"""Whole numbers divided by -1: in a process of its own, since ONNX Runtime by itself ends it (as eager does)."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import torch
from optimum_core import accelerate
from optimum_core.errors import SessionError

class Quotients(torch.nn.Module):
    def forward(self, a, b):
        return torch.div(a, b, rounding_mode="trunc"), a % b

numbers = {"a": torch.tensor([7, -7, 9]), "b": torch.tensor([2, 3, -1])}
fast = accelerate(Quotients().eval(), target="ort", level="all", sample_inputs=numbers, budget=0)
least = torch.iinfo(torch.int64).min
quotient, rest = fast(a=torch.tensor([least, 7, -7, least]), b=torch.tensor([-1, -1, 2, 2]))
assert quotient.tolist() == [least, -7, -3, least // 2], quotient
assert rest.tolist() == [0, 0, 1, 0], rest
try:
    fast(a=torch.tensor([1]), b=torch.tensor([0]))
except SessionError as error:
    assert "by zero" in str(error), error
else:
    raise AssertionError("a division by zero was answered")
"""


def test_the_least_number_is_divided_by_minus_one() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
