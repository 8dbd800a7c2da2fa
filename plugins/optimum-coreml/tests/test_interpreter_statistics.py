"""Sums, extremes, norms and softmax, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from coremltools.converters.mil.mil import Builder
from torch.nn import functional as F

from optimum_coreml_interpreter.registry import OPERATORS

Tensor = torch.Tensor
mb: Any = Builder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


G = (drawn(4, seed=6), drawn(4, seed=7), drawn(4, seed=8), drawn(4, seed=9).abs() + 0.1)
PICTURE = drawn(2, 4, 7, 6, seed=10)
ROWS = drawn(3, 5, 4, seed=11)
N = [item.numpy() for item in G]


#: name: (what is built, what torch computes, inputs); the operator is the name up to the first comma.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]] = {
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
    build, reference, inputs = CASES[name]
    made = built(build, [tuple(item.shape) for item in inputs], tmp_path)
    (found,) = made.run({f"x{index}": item for index, item in enumerate(inputs)}).values()
    torch.testing.assert_close(found, reference(*inputs), rtol=1e-4, atol=1e-5)


def test_every_operator_of_its_module_has_a_test() -> None:
    here = {name for name, function in OPERATORS.items() if function.__module__.endswith(".statistics")}
    assert sorted(here - {name.partition(",")[0] for name in CASES}) == []
