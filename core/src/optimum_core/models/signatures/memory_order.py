"""Inputs of which the eager model asks how their numbers lie in memory: `x.is_contiguous()`, `x.stride(0)`.

A graph takes the values alone. So a model that answers a transposed view otherwise than a copy of it in order is found
out, and its calls have to pass inputs in order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import eager_outputs, is_plain
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.type_following import equal
from optimum_core.types.arrays import Arrays, NDArray

log = logging.getLogger(__name__)


def inputs_kept_in_order(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> frozenset[str]:
    """Return the inputs that the eager model answers otherwise where their numbers lie in another order in memory.

    Args:
        arrays: samples of the user.
    """
    if getattr(module, "is_graph", False):
        return frozenset()
    inputs = draw(layout, Case(name="order in memory", padding="none"), arrays)
    names = [name for name, array in inputs.items() if sum(length > 1 for length in array.shape) > 1]
    if not is_plain(module):  # models of libraries look their ids up: of these, order is lost with the first operator
        names = [name for name in names if inputs[name].dtype.kind == "f"]
    if not names:
        return frozenset()
    want = eager_outputs(module, inputs)
    if not _minds(module, inputs, names, want):
        return frozenset()
    return frozenset(name for name in names if len(names) == 1 or _minds(module, inputs, [name], want, refused=False))


def _minds(module: Any, inputs: Arrays, names: Sequence[str], want: Arrays, *, refused: bool = True) -> bool:
    """Whether the model answers otherwise where these inputs lie in another order.

    Args:
        refused: the value where it refuses them, as `view` does: of several inputs, others may have to be tried alone.
    """
    for again in _in_other_orders(inputs, names):
        try:
            have = eager_outputs(module, again)
        except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
            log.debug("%s in another order: %r", names, error)
            if refused and len(names) > 1:
                return True
            continue
        if have.keys() != want.keys() or not all(equal(have[name], want[name]) for name in want):
            return True
    return False


def _in_other_orders(inputs: Arrays, names: Sequence[str]) -> Iterator[Arrays]:
    """Yield the inputs with some of them in the order of Fortran, and with channels last where they may be pictures."""
    yield {**inputs, **{name: np.asfortranarray(inputs[name]) for name in names}}
    pictures = [name for name in names if inputs[name].ndim in (4, 5)]
    if pictures:
        yield {**inputs, **{name: _channels_last(inputs[name]) for name in pictures}}


def _channels_last(array: NDArray) -> NDArray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
