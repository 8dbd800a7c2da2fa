"""Operators on one element at a time, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from operators import PICTURE, ROWS, Case, G, N, Tensor, check, drawn, mb, untested

CASES: dict[str, Case] = {
    "add": (lambda x, y: mb.add(x=x, y=y), lambda x, y: x + y, [ROWS, drawn(5, 1)]),
    "sub": (lambda x, y: mb.sub(x=x, y=y), lambda x, y: x - y, [ROWS, drawn(4)]),
    "mul": (lambda x, y: mb.mul(x=x, y=y), lambda x, y: x * y, [ROWS, drawn(3, 1, 1)]),
    "real_div": (lambda x, y: mb.real_div(x=x, y=y), lambda x, y: x / y, [ROWS, ROWS + 3]),
    "floor_div": (lambda x, y: mb.floor_div(x=x, y=y), lambda x, y: torch.floor(x / y), [ROWS, drawn(4)]),
    "mod": (lambda x, y: mb.mod(x=x, y=y), torch.remainder, [ROWS, drawn(4)]),
    "pow": (lambda x, y: mb.pow(x=x, y=y), torch.pow, [ROWS.abs(), drawn(4)]),
    "maximum": (lambda x, y: mb.maximum(x=x, y=y), torch.maximum, [ROWS, drawn(4)]),
    "minimum": (lambda x, y: mb.minimum(x=x, y=y), torch.minimum, [ROWS, drawn(4)]),
    "select": (
        lambda x, y: mb.select(cond=mb.less(x=x, y=0.0), a=x, b=y),
        lambda x, y: torch.where(x < 0, x, y),
        [ROWS, ROWS * 3],
    ),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.3), lambda x: x.clamp(-0.5, 0.3), [ROWS]),
    "threshold": (lambda x: mb.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2), [ROWS]),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7), [ROWS]),
    "gelu": (lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu, [ROWS]),
    "gelu, by tanh": (
        lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: F.gelu(x, approximate="tanh"),
        [ROWS],
    ),
    "gelu, by sigmoid": (
        lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * (1.702 * x).sigmoid(),
        [ROWS],
    ),
    "leaky_relu": (lambda x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1), [ROWS]),
    "linear_activation": (lambda x: mb.linear_activation(x=x, alpha=2.0, beta=1.0), lambda x: 2 * x + 1, [ROWS]),
    "prelu": (lambda x: mb.prelu(x=x, alpha=N[0]), lambda x: F.prelu(x, G[0]), [PICTURE]),
    "scaled_tanh": (lambda x: mb.scaled_tanh(x=x, alpha=2.0, beta=0.5), lambda x: 2 * (x / 2).tanh(), [ROWS]),
    "sigmoid_hard": (
        lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4),
        lambda x: (0.3 * x + 0.4).clamp(0, 1),
        [ROWS],
    ),
    "inverse": (lambda x: mb.inverse(x=x, epsilon=0.1), lambda x: 1 / (x + 0.1), [ROWS.abs()]),
    "log": (lambda x: mb.log(x=x, epsilon=0.1), lambda x: (x + 0.1).log(), [ROWS.abs()]),
    "rsqrt": (lambda x: mb.rsqrt(x=x, epsilon=0.1), lambda x: (x + 0.1).rsqrt(), [ROWS.abs()]),
    "cast": (
        lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"),
        lambda x: x.trunc(),
        [ROWS * 5],
    ),
    "quantize, and dequantize": (
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32(0.1), zero_point=np.int8(3), output_dtype="int8"),
            scale=np.float32(0.1),
            zero_point=np.int8(3),
        ),
        lambda x: ((x / 0.1).round() + 3).clamp(-128, 127).sub(3) * 0.1,
        [ROWS * 8],
    ),
}
_PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "abs": (torch.abs, ROWS),
    "acos": (torch.acos, ROWS.tanh()),
    "asin": (torch.asin, ROWS.tanh()),
    "atan": (torch.atan, ROWS),
    "atanh": (torch.atanh, ROWS.tanh() * 0.9),
    "ceil": (torch.ceil, ROWS),
    "cos": (torch.cos, ROWS),
    "cosh": (torch.cosh, ROWS),
    "erf": (torch.erf, ROWS),
    "exp": (torch.exp, ROWS),
    "exp2": (torch.exp2, ROWS),
    "floor": (torch.floor, ROWS),
    "identity": (lambda x: x, ROWS),
    "relu": (torch.relu, ROWS),
    "relu6": (F.relu6, ROWS * 6),
    "round": (torch.round, torch.tensor([[0.5, 1.5, -0.5, 2.4]])),
    "sigmoid": (torch.sigmoid, ROWS),
    "sign": (torch.sign, ROWS),
    "silu": (F.silu, ROWS),
    "sin": (torch.sin, ROWS),
    "sinh": (torch.sinh, ROWS),
    "softplus": (F.softplus, ROWS * 30),
    "softsign": (F.softsign, ROWS),
    "sqrt": (torch.sqrt, ROWS.abs()),
    "square": (torch.square, ROWS),
    "tan": (torch.tan, ROWS),
    "tanh": (torch.tanh, ROWS),
}
for _name, (_function, _input) in _PLAIN.items():
    CASES[_name] = ((lambda name: lambda x: getattr(mb, name)(x=x))(_name), _function, [_input])

#: Of these the result is no float: compared after a cast.
_WORDS = {
    "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt,
    "less_equal": torch.le,
}  # fmt: skip
for _name, _compare in _WORDS.items():
    CASES[_name] = (
        (lambda name: lambda x, y: mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32"))(_name),
        (lambda compare: lambda x, y: compare(x, y).float())(_compare),
        [ROWS.round(), ROWS.round().flip(1)],
    )
for _name, _combine in {
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}.items():
    CASES[_name] = (
        (
            lambda name: (
                lambda x, y: mb.cast(x=getattr(mb, name)(x=mb.less(x=x, y=0.0), y=mb.less(x=y, y=0.0)), dtype="fp32")
            )
        )(_name),
        (lambda combine: lambda x, y: combine(x < 0, y < 0).float())(_combine),
        [ROWS, ROWS.flip(1)],
    )
CASES["logical_not"] = (
    lambda x: mb.cast(x=mb.logical_not(x=mb.less(x=x, y=0.0)), dtype="fp32"),
    lambda x: (x >= 0).float(),
    [ROWS],
)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("elementwise", CASES) == {"dequantize"}
