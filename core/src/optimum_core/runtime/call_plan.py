"""The work that a call needs beyond its names, shapes and types, which were checked when they first came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimum_core.runtime.bounds import ValueRange
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import NDArray


@dataclass(frozen=True, slots=True)
class Plan:
    """The work left to do at each call with one combination of names, shapes and types.

    Attributes:
        casts: inputs to convert to another type.
        ranges: inputs whose values have bounds: name, least, greatest.
        moved: the ranges of those whose bounds these lengths decide on.
        within: inputs with bounds within each row: of boxes' width and height, or of each place along the last axis.
        floats: inputs that must hold neither NaN nor infinity.
        ordered: inputs whose numbers must lie in order.
        rows: inputs that came with one row beside more of others, and the number of these.
        fills: inputs that were left out, with the values that eager assumes for them.
    """

    casts: tuple[tuple[str, np.dtype[Any]], ...]
    ranges: tuple[tuple[str, int, int], ...]
    moved: Mapping[str, ValueRange] = field(default_factory=dict)
    fills: tuple[tuple[TensorSpec, NDArray], ...] = ()
    within: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    ordered: tuple[str, ...] = ()
    rows: tuple[tuple[str, int], ...] = ()


#: Of a call that needs no more than its names checked.
NO_PLAN = Plan(casts=(), ranges=())
