"""Inputs of one row beside many rows of others, as position ids [1, sequence]: eager models broadcast them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import alike, ask
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Arrays, Case, draw

log = logging.getLogger(__name__)


def stands_for_all(module: Any, layout: Layout, arrays: Mapping[str, Any], item: InputLayout) -> bool:
    """Whether the eager model answers one row of an input as it does the same row in the place of each, beside several
    rows of the others."""
    axis = item.axes[0] if item.axes else 0
    beside = [other for other in layout.inputs if other.name != item.name and axis in other.axes[:1]]
    if not isinstance(axis, str) or not beside or layout.lengths[axis] < 2 or axis in item.axes[1:]:
        return False
    inputs = draw(layout, Case(name="one row", padding="none"), arrays)
    row = inputs[item.name][:1]
    repeated = np.repeat(row, layout.lengths[axis], axis=0)
    try:
        one, many = (flatten(ask(module, {**inputs, item.name: value})) for value in (row, repeated))
    except Exception as error:  # noqa: BLE001 - the eager model refuses one of them, by an error of any type
        log.debug("one row of %s: %r", item.name, error)
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
