"""The least and the greatest whole number that a plain module takes, where no table of its own bounds them: indices
into another input or a constant, classes that are written out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from optimum_core.errors import ExportError
from optimum_core.models.eager.bounded_calls import ReadsNumberError, outputs_in_time
from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Arrays, Case, draw
from optimum_core.models.signatures.axes import lengths_beside

log = logging.getLogger(__name__)

#: A number beyond every index that is looked for.
FAR = 2**20 + 3

Range = tuple[int | None, int | None]


def within_limits(module: Any, layout: Layout, arrays: Mapping[str, Any], name: str, known: Range) -> Range:
    """Return the range of an input's values, found by trial where it was not known.

    A limit that moves with a length of the inputs is none: the lengths of a call decide on it.

    Args:
        arrays: samples of the user.
        known: the limits found so far.
    """
    item = next(item for item in layout.inputs if item.name == name)
    if not is_plain(module) or item.kind != "given" or name in layout.steady:
        return known
    found = list(known)
    try:
        here, *elsewhere = (_Asked(module, inputs, name) for inputs in _drawn(layout, arrays))
        for side, step in ((0, -1), (1, 1)):
            limit = here.last(step) if known[side] is None else None
            if limit is not None and all(other.ends_at(limit, step) for other in elsewhere):
                found[side] = limit
    except (ReadsNumberError, ExportError) as error:  # it counts, or takes long
        log.debug("limits of %s are not looked for: %r", name, error)
        return known
    return found[0], found[1]


def _drawn(layout: Layout, arrays: Mapping[str, Any]) -> Iterator[Arrays]:
    yield draw(layout, Case(name="limits", padding="none"), arrays)
    for place in (0, 1) if layout.axes else ():
        lengths = {axis: lengths_beside(layout, axis)[place] for axis in layout.axes}
        yield draw(layout, Case(name="limits elsewhere", lengths=lengths, padding="none"), arrays)


class _Asked:
    """Trials of values in the middle of one input of a call."""

    def __init__(self, module: Any, inputs: Arrays, name: str) -> None:
        self._module, self._inputs, self._name = module, inputs, name
        self._limits = np.iinfo(inputs[name].dtype)

    def last(self, step: int) -> int | None:
        """Return the value furthest up (`step` 1) or down (-1) that is taken; None: there is no limit."""
        array = self._inputs[self._name]
        taken = int(array.max() if step > 0 else array.min())
        refused = min(FAR, int(self._limits.max)) if step > 0 else max(-FAR, int(self._limits.min))
        if (refused - taken) * step <= 0 or self._takes(refused) or not self._takes(taken):
            return None
        while abs(refused - taken) > 1:
            middle = (taken + refused) // 2
            taken, refused = (middle, refused) if self._takes(middle) else (taken, middle)
        return taken

    def ends_at(self, value: int, step: int) -> bool:
        """Whether a value is the last that is taken here too."""
        return self._takes(value) and not self._takes(value + step)

    def _takes(self, value: int) -> bool:
        array = self._inputs[self._name].copy()
        array.flat[array.size // 2] = value
        try:
            outputs_in_time(self._module, {**self._inputs, self._name: array})
        except (ReadsNumberError, ExportError):
            raise
        except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
            log.debug("%s = %d: %r", self._name, value, error)
            return False
        return True
