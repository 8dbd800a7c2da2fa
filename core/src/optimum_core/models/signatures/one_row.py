"""Inputs of one row beside many rows of others, as position ids [1, sequence]: eager models broadcast them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import alike
from optimum_core.models.eager.kept_answers import ask_once
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.types.arrays import Arrays

log = logging.getLogger(__name__)
#: Rows of the other inputs: the fewest that are more than one.
_ROWS = 2
#: Maximum number of such inputs of one axis. All that may have one row in the same call are tried together.
_MOST = 3


def inputs_of_one_row(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> frozenset[str]:
    """Return the inputs of which one row stands for all, whichever of them have one row in the same call."""
    found: list[InputLayout] = []
    for item in reversed(layout.inputs):  # the first are what the others are said of: tokens, before their types
        if not stands_for_all(module, layout, arrays, item):
            continue
        kept = [other for other in found if other.axes[0] == item.axes[0]]
        sets = (chosen for size in range(1, len(kept) + 1) for chosen in combinations(kept, size))
        if len(kept) < _MOST and all(_stand_together(module, layout, arrays, (item, *chosen)) for chosen in sets):
            found.append(item)
    return frozenset(item.name for item in found)


def stands_for_all(module: Any, layout: Layout, arrays: Mapping[str, Any], item: InputLayout) -> bool:
    """Whether the eager model answers one row of an input as it does the same row in the place of each, beside several
    rows of the others."""
    axis = item.axes[0] if item.axes else 0
    if not isinstance(axis, str) or layout.lengths[axis] < _ROWS or axis in item.axes[1:]:
        return False
    return bool(_beside(layout, (item,))) and _stand_together(module, layout, arrays, (item,))


def _beside(layout: Layout, items: tuple[InputLayout, ...]) -> list[InputLayout]:
    """Return the other inputs whose rows are as many."""
    return [other for other in layout.inputs if other not in items and items[0].axes[0] in other.axes[:1]]


def _stand_together(module: Any, layout: Layout, arrays: Mapping[str, Any], items: tuple[InputLayout, ...]) -> bool:
    """Whether one row of each of these inputs in the same call stands for all rows of the others; without others there
    is but one."""
    if not _beside(layout, items):
        return True
    inputs = draw(layout, Case(name="one row", lengths={str(items[0].axes[0]): _ROWS}, padding="none"), arrays)
    rows = {item.name: inputs[item.name][:1] for item in items}
    repeated = {name: np.repeat(row, _ROWS, axis=0) for name, row in rows.items()}
    try:
        one, many = (flatten(ask_once(module, {**inputs, **values})) for values in (rows, repeated))
    except Exception as error:  # noqa: BLE001 - the eager model refuses one of them, by an error of any type
        log.debug("one row of %s: %r", ", ".join(rows), error)
        return False
    return one.keys() == many.keys() and all(alike(many[name], one[name]) for name in many)


def with_all_rows(inputs: Arrays, layout: Layout) -> Arrays:
    """Return inputs with one row repeated where others with the same axis have more."""
    rows: dict[int | str, int] = {}
    for item in layout.inputs:
        if item.axes and inputs[item.name].ndim:
            rows[item.axes[0]] = max(rows.get(item.axes[0], 0), inputs[item.name].shape[0])
    made = dict(inputs)
    for item in layout.inputs:
        axis, array = item.axes[0] if item.axes else 0, inputs[item.name]
        if isinstance(axis, str) and array.ndim and array.shape[0] == 1 < rows[axis]:
            made[item.name] = np.repeat(array, rows[axis], axis=0)
    return made
