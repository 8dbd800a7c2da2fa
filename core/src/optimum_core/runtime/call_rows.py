"""Inputs of one row that stands for all rows of a call, as position ids [1, sequence] beside several texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from optimum_core.types import TensorSpec

_ARRAY = np.ndarray


def of_one_row(specs: Iterable[TensorSpec], arrays: Mapping[str, Any]) -> frozenset[str]:
    """Return the inputs of one row, which stands for all, beside more rows of others."""
    present = [
        (spec, arrays[spec.name])
        for spec in specs
        if spec.name in arrays and len(arrays[spec.name].shape) == len(spec.shape) > 0
    ]
    counts: dict[int | str, int] = {}
    for spec, value in present:
        counts[spec.shape[0]] = max(counts.get(spec.shape[0], 0), value.shape[0])
    return frozenset(
        spec.name
        for spec, value in present
        # What lies on a device is left as it is.
        if spec.one_row and isinstance(value, _ARRAY) and value.shape[0] == 1 < counts[spec.shape[0]]
    )


def repeat_rows(rows: Iterable[tuple[str, int]], arrays: dict[str, Any]) -> None:
    """Repeat the one row of inputs, by name, as often as stated: what runtimes take lies in one piece."""
    for name, count in rows:
        arrays[name] = np.repeat(arrays[name], count, axis=0)
