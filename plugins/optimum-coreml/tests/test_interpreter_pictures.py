"""Pools and resizing, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional as F

from operators import PICTURE, Case, Tensor, check, drawn, mb, same_padding, untested


def _ceil(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False)


CASES: dict[str, Case] = {
    "max_pool, same": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[4], strides=[2], pad_type="same"),
        lambda x: F.max_pool1d(F.pad(x, same_padding(x, 4, 2), value=-9e9), 4, 2),
        [drawn(2, 4, 9) - 5],
    ),
    "max_pool, rounded up": (
        lambda x: mb.max_pool(
            x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True
        ),
        lambda x: F.max_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True),
        [PICTURE - 5],
    ),
    "avg_pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1)),
        [PICTURE],
    ),
    "avg_pool, rounded up": (
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        _ceil,
        [PICTURE],
    ),
    "avg_pool, rounded up with padding": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="custom", pad=[1, 1], ceil_mode=True),
        lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True),
        [drawn(2, 4, 8)],
    ),
    "l2_pool": (
        lambda x: mb.l2_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="valid"),
        lambda x: F.lp_pool2d(x, 2.0, (3, 2), (2, 1))[..., :5],
        [PICTURE],
    ),
    "upsample_nearest_neighbor": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
        [PICTURE],
    ),
    "resize_nearest_neighbor": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=5, target_size_width=9),
        lambda x: F.interpolate(x, size=(5, 9)),
        [PICTURE],
    ),
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
        [PICTURE],
    ),
    "resize_bilinear": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=5, target_size_width=9, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
        [PICTURE],
    ),
    "resize_bilinear, unaligned": (
        lambda x: mb.resize_bilinear(x=x, target_size_height=5, target_size_width=9, sampling_mode="UNALIGN_CORNERS"),
        lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"),
        [PICTURE],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, built: Callable[..., Any], tmp_path: Path) -> None:
    check(CASES[name], built, tmp_path)


def test_every_operator_of_its_module_has_a_test() -> None:
    assert untested("pictures", CASES) == set()
