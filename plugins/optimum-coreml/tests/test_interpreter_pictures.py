"""Pools and resizing, against torch."""

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


PICTURE = drawn(2, 4, 7, 6, seed=10)


def _same(x: Tensor, kernel: int, step: int) -> tuple[int, int]:
    total = max(0, (-(-x.shape[-1] // step) - 1) * step + kernel - x.shape[-1])
    return total // 2, total - total // 2


def _ceil(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False)


#: name: (what is built, what torch computes, inputs); the operator is the name up to the first comma.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]] = {
    "max_pool, same": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[4], strides=[2], pad_type="same"),
        lambda x: F.max_pool1d(F.pad(x, _same(x, 4, 2), value=-9e9), 4, 2),
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
    build, reference, inputs = CASES[name]
    made = built(build, [tuple(item.shape) for item in inputs], tmp_path)
    (found,) = made.run({f"x{index}": item for index, item in enumerate(inputs)}).values()
    torch.testing.assert_close(found, reference(*inputs), rtol=1e-4, atol=1e-5)


def test_every_operator_of_its_module_has_a_test() -> None:
    here = {name for name, function in OPERATORS.items() if function.__module__.endswith(".pictures")}
    assert sorted(here - {name.partition(",")[0] for name in CASES}) == []
