"""Sums, extremes, norms and softmax, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from operators import PICTURE, ROWS, Case, G, N, Tensor, check, mb, untested

CASES: dict[str, Case] = {
    "layer_norm": (
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.layer_norm(x, (4,), G[0], G[1], 1e-3),
        [ROWS],
    ),
    "layer_norm, inner axes": (
        lambda x: mb.layer_norm(x=x, axes=[1], epsilon=1e-3, gamma=N[0]),
        lambda x: F.layer_norm(x.movedim(1, -1), (4,), G[0], None, 1e-3).movedim(-1, 1),
        [PICTURE],
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=N[2], variance=N[3], gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.batch_norm(x, G[2], G[3], G[0], G[1], eps=1e-3),
        [PICTURE],
    ),
    "instance_norm": (
        lambda x: mb.instance_norm(x=x, gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.instance_norm(x, weight=G[0], bias=G[1], eps=1e-3),
        [PICTURE],
    ),
    "l2_norm": (
        lambda x: mb.l2_norm(x=x, epsilon=1e-3),
        lambda x: x / torch.sqrt((x * x).sum((1, 2, 3), keepdim=True) + 1e-3),
        [PICTURE],
    ),
    "softmax": (lambda x: mb.softmax(x=x, axis=-2), lambda x: x.softmax(-2), [ROWS]),
    "cumsum": (lambda x: mb.cumsum(x=x, axis=1), lambda x: x.cumsum(1), [ROWS]),
    "cumsum, exclusive and reversed": (
        lambda x: mb.cumsum(x=x, axis=-1, exclusive=True, reverse=True),
        lambda x: x.flip(-1).cumsum(-1).flip(-1) - x,
        [ROWS],
    ),
    "reduce_max": (lambda x: mb.reduce_max(x=x, axes=[-1], keep_dims=True), lambda x: x.amax(-1, True), [ROWS]),
    "reduce_min": (lambda x: mb.reduce_min(x=x, axes=[0, 2]), lambda x: x.amin((0, 2)), [ROWS]),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[1]), lambda x: x.sum(1), [ROWS]),
    "reduce_mean": (
        lambda x: mb.reduce_mean(x=x, axes=[-1, 0], keep_dims=True),
        lambda x: x.mean((0, 2), True),
        [ROWS],
    ),
    "reduce_prod": (lambda x: mb.reduce_prod(x=x, axes=[1, 2]), lambda x: x.prod(2).prod(1), [ROWS]),
    "reduce_sum_square": (lambda x: mb.reduce_sum_square(x=x, axes=[1]), lambda x: (x * x).sum(1), [ROWS]),
    "reduce_l1_norm": (lambda x: mb.reduce_l1_norm(x=x, axes=[1]), lambda x: x.abs().sum(1), [ROWS]),
    "reduce_l2_norm": (lambda x: mb.reduce_l2_norm(x=x, axes=[1]), lambda x: x.norm(dim=1), [ROWS]),
    "reduce_log_sum": (lambda x: mb.reduce_log_sum(x=x, axes=[1]), lambda x: x.sum(1).log(), [ROWS.abs()]),
    "reduce_log_sum_exp": (lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), lambda x: x.logsumexp(1), [ROWS]),
}
_PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "reduce_argmax": lambda x: x.argmax(1, True),
    "reduce_argmin": lambda x: x.argmin(1, True),
}
for _name, _found in _PLACES.items():
    CASES[_name] = (
        (lambda name: lambda x: mb.cast(x=getattr(mb, name)(x=x, axis=1, keep_dims=True), dtype="fp32"))(_name),
        (lambda found: lambda x: found(x).float())(_found),
        [ROWS],
    )


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("statistics", CASES) == set()
