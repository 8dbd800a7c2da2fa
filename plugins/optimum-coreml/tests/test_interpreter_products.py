"""Matrices, convolutions and attention, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from operators import PICTURE, ROWS, Case, check, drawn, mb, same_padding, untested

W = drawn(6, 4, seed=1)
K2, K1 = drawn(6, 2, 3, 2, seed=2), drawn(4, 4, 3, seed=3)
T2 = drawn(4, 3, 3, 2, seed=4)
B6 = drawn(6, seed=5)


CASES: dict[str, Case] = {
    "linear": (
        lambda x: mb.linear(x=x, weight=W.numpy(), bias=B6.numpy()),
        lambda x: F.linear(x, W, B6),
        [ROWS],
    ),
    "matmul": (lambda x, y: mb.matmul(x=x, y=y), torch.matmul, [ROWS, drawn(4, 6)]),
    "matmul, transposed": (
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        lambda x, y: x.mT @ y.mT,
        [ROWS, drawn(3, 2, 5)],
    ),
    "einsum": (
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
        [drawn(2, 3, 4, 5), drawn(2, 5, 4, 6)],
    ),
    "scaled_dot_product_attention": (
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        [drawn(2, 3, 4, 8), drawn(2, 3, 5, 8), drawn(2, 3, 5, 6), drawn(2, 1, 4, 5)],
    ),
    "scaled_dot_product_attention, of flags": (
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=-0.5)),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m > -0.5),
        [drawn(2, 3, 4, 8), drawn(2, 3, 5, 8), drawn(2, 3, 5, 6), drawn(2, 1, 4, 5)],
    ),
    "conv, custom": (
        lambda x: mb.conv(
            x=x,
            weight=K2.numpy(),
            bias=B6.numpy(),
            strides=[2, 1],
            pad_type="custom",
            pad=[1, 0, 2, 1],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: F.conv2d(F.pad(x, (2, 1, 1, 0)), K2, B6, (2, 1), 0, (1, 2), 2),
        [PICTURE],
    ),
    "conv, valid": (
        lambda x: mb.conv(x=x, weight=K1.numpy(), pad_type="valid", strides=[2]),
        lambda x: F.conv1d(x, K1, None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv, same": (
        lambda x: mb.conv(x=x, weight=drawn(4, 4, 4, seed=3).numpy(), pad_type="same", strides=[2]),
        lambda x: F.conv1d(F.pad(x, same_padding(x, 4, 2)), drawn(4, 4, 4, seed=3), None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv, same_lower": (
        lambda x: mb.conv(x=x, weight=drawn(4, 4, 4, seed=3).numpy(), pad_type="same_lower", strides=[2]),
        lambda x: F.conv1d(F.pad(x, same_padding(x, 4, 2)[::-1]), drawn(4, 4, 4, seed=3), None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv_transpose": (
        lambda x: mb.conv_transpose(
            x=x,
            weight=T2.numpy(),
            bias=B6.numpy(),
            strides=[2, 3],
            pad_type="custom",
            pad=[1, 1, 0, 0],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: F.conv_transpose2d(x, T2, B6, (2, 3), (1, 0), 0, 2, (1, 2)),
        [PICTURE],
    ),
    "conv_transpose, more than there is": (
        lambda x: mb.conv_transpose(
            x=x, weight=drawn(4, 3, 2, seed=3).numpy(), bias=drawn(3).numpy(), strides=[3], output_shape=[2, 3, 18]
        ),
        lambda x: F.conv_transpose1d(x, drawn(4, 3, 2, seed=3), drawn(3), 3, 0, 1),
        [drawn(2, 4, 6)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("products", CASES) == set()
