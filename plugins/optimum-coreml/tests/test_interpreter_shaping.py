"""Operators that move, cut, join and make tensors, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from operators import PICTURE, ROWS, Case, check, drawn, mb, untested

CASES: dict[str, Case] = {
    "pixel_shuffle": (
        lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
        [PICTURE],
    ),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="constant", constant_val=7.0),
        lambda x: F.pad(x, (0, 3, 1, 2), value=7.0),
        [ROWS],
    ),
    "pad, reflect": (
        lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="reflect"),
        lambda x: F.pad(x, (1, 3, 2, 1), mode="reflect"),
        [PICTURE],
    ),
    "pad, replicate": (
        lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="replicate"),
        lambda x: F.pad(x, (1, 3, 2, 1), mode="replicate"),
        [PICTURE],
    ),
    "slice_by_index": (
        lambda x: mb.slice_by_index(x=x, begin=[0, 4, -3], end=[2, 0, 9], stride=[1, -2, 1]),
        lambda x: x[0:2].flip(1)[:, 0:4:2][..., -3:],
        [ROWS],
    ),
    "slice_by_index, masked": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[2, 1, -1],
            end=[2, 1, 0],
            begin_mask=[True, False, False],
            end_mask=[False, True, False],
            squeeze_mask=[False, False, True],
        ),
        lambda x: x[:2, 1:, -1],
        [ROWS],
    ),
    "slice_by_size": (
        lambda x: mb.slice_by_size(x=x, begin=[1, 0, 1], size=[-1, 2, 3]),
        lambda x: x[1:, :2, 1:4],
        [ROWS],
    ),
    "slice_update": (
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1, 0], end=[3, 4, 4], stride=[1, 2, 1]),
        lambda x, u: torch.stack([x[:, 0], u[:, 0], x[:, 2], u[:, 1], x[:, 4]], 1),
        [ROWS, drawn(3, 2, 4, seed=20)],
    ),
    "reshape": (lambda x: mb.reshape(x=x, shape=[0, -1, 2]), lambda x: x.reshape(3, -1, 2), [ROWS]),
    "transpose": (lambda x: mb.transpose(x=x, perm=[-1, 0, 1]), lambda x: x.permute(2, 0, 1), [ROWS]),
    "expand_dims": (lambda x: mb.expand_dims(x=x, axes=[-1, 1]), lambda x: x[:, None, ..., None], [ROWS]),
    "squeeze": (lambda x: mb.squeeze(x=x, axes=[-3]), lambda x: x.squeeze(1), [drawn(2, 1, 1, 3)]),
    "concat": (lambda x, y: mb.concat(values=[x, y], axis=-2), lambda x, y: torch.cat([x, y], 1), [ROWS, ROWS * 2]),
    "concat, interleaved": (
        lambda x, y: mb.concat(values=[x, y], axis=1, interleave=True),
        lambda x, y: torch.stack([x, y], 2).flatten(1, 2),
        [ROWS, ROWS * 2],
    ),
    "stack": (lambda x, y: mb.stack(values=[x, y], axis=-1), lambda x, y: torch.stack([x, y], -1), [ROWS, ROWS * 2]),
    "split": (
        lambda x: mb.split(x=x, split_sizes=[2, 3], axis=-2)[1],
        lambda x: x[:, 2:],
        [ROWS],
    ),
    "split, equally": (lambda x: mb.split(x=x, num_splits=2, axis=2)[0], lambda x: x[..., :2], [ROWS]),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 3]), lambda x: x.repeat(1, 2, 3), [ROWS]),
    "reverse": (lambda x: mb.reverse(x=x, axes=[-1, 0]), lambda x: x.flip(0, 2), [ROWS]),
    "flatten2d": (lambda x: mb.flatten2d(x=x, axis=-1), lambda x: x.reshape(15, 4), [ROWS]),
    "band_part": (
        lambda x: mb.band_part(x=x, lower=1, upper=-1),
        lambda x: torch.triu(x, -1),
        [ROWS],
    ),
    "band_part, upper": (lambda x: mb.band_part(x=x, lower=-1, upper=0), torch.tril, [ROWS]),
    "fill": (
        lambda x: mb.add(x=x, y=mb.fill(shape=mb.shape(x=x), value=2.5)),
        lambda x: x + 2.5,
        [ROWS],
    ),
    "fill_like": (lambda x: mb.fill_like(ref_tensor=x, value=2.5), lambda x: torch.full_like(x, 2.5), [ROWS]),
    "range_1d": (
        lambda x: mb.add(x=x, y=mb.range_1d(end=4.0, start=0.0, step=1.0)),
        lambda x: x + torch.arange(4.0),
        [ROWS],
    ),
    "one_hot": (
        lambda x: mb.add(
            x=x, y=mb.one_hot(indices=[1, 0, 3, 1, 2], one_hot_vector_size=4, on_value=2.0, off_value=0.0)
        ),
        lambda x: x + 2.0 * F.one_hot(torch.tensor([1, 0, 3, 1, 2]), 4),
        [ROWS],
    ),
}
CASES["shape"] = (
    lambda x: mb.cast(x=mb.shape(x=x), dtype="fp32"),
    lambda x: torch.tensor(x.shape).float(),
    [ROWS],
)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("shaping", CASES) == set()
