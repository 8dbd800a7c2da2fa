"""Operators that read or write at places that other tensors name, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from operators import ROWS, Case, check, drawn, mb, untested

CASES: dict[str, Case] = {
    "gather": (
        lambda x: mb.gather(x=x, indices=np.array([[3, 0], [1, 1]], np.int32), axis=-1),
        lambda x: x[..., torch.tensor([[3, 0], [1, 1]])],
        [ROWS],
    ),
    "gather, by batch": (
        lambda x: mb.gather(x=x, indices=np.array([[4, 0], [1, 1], [2, 3]], np.int32), axis=1, batch_dims=1),
        lambda x: torch.stack(
            [row[where] for row, where in zip(x, torch.tensor([[4, 0], [1, 1], [2, 3]]), strict=True)]
        ),
        [ROWS],
    ),
    "gather_along_axis": (
        lambda x: mb.gather_along_axis(x=x, indices=np.full((3, 2, 4), 3, np.int32), axis=1),
        lambda x: x[:, [3, 3]],
        [ROWS],
    ),
    "gather_nd": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[2, 1], [0, 4]], np.int32)),
        lambda x: torch.stack([x[2, 1], x[0, 4]]),
        [ROWS],
    ),
    "gather_nd, by batch": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[1], [4], [0]], np.int32), batch_dims=1),
        lambda x: torch.stack([x[0, 1], x[1, 4], x[2, 0]]),
        [ROWS],
    ),
    "scatter": (
        lambda x, u: mb.scatter(data=x, indices=np.array([4, 0], np.int32), updates=u, axis=1, mode="update"),
        lambda x, u: x.index_copy(1, torch.tensor([4, 0]), u),
        [ROWS, drawn(3, 2, 4, seed=30)],
    ),
    "scatter_along_axis": (
        lambda x, u: mb.scatter_along_axis(data=x, indices=np.full((3, 2, 4), 2, np.int32), updates=u, axis=1),
        lambda x, u: x.scatter_add(1, torch.full((3, 2, 4), 2), u),
        [ROWS, drawn(3, 2, 4, seed=30)],
    ),
    "scatter_nd": (
        lambda x, u: mb.scatter_nd(data=x, indices=np.array([[2, 1], [0, 4], [2, 1]], np.int32), updates=u, mode="max"),
        lambda x, u: torch.stack(
            [
                torch.stack(
                    [
                        torch.maximum(x[i, j], torch.maximum(u[0], u[2]))
                        if (i, j) == (2, 1)
                        else torch.maximum(x[i, j], u[1])
                        if (i, j) == (0, 4)
                        else x[i, j]
                        for j in range(5)
                    ]
                )
                for i in range(3)
            ]
        ),
        [ROWS, drawn(3, 4, seed=31)],
    ),
    "topk": (
        lambda x: mb.topk(x=x, k=2, axis=1, ascending=True)[0],
        lambda x: x.topk(2, 1, largest=False).values,
        [ROWS],
    ),
}
CASES["argsort"] = (
    lambda x: mb.cast(x=mb.argsort(x=x, axis=1, ascending=True), dtype="fp32"),
    lambda x: x.argsort(1).float(),
    [ROWS],
)
CASES["non_zero"] = (
    lambda x: mb.cast(x=mb.non_zero(x=mb.relu(x=x)), dtype="fp32"),
    lambda x: x.relu().nonzero().float(),
    [ROWS],
)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("gathering", CASES) == set()
