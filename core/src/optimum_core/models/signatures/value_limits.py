"""The least and the greatest whole number that a plain module takes, where no table of its own bounds them: places in
another input or a constant, classes that are written out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from optimum_core.errors import ExportError
from optimum_core.models.eager.bounded_calls import COUNTED, ReadsNumberError, outputs_in_time
from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Arrays, Case, draw
from optimum_core.models.signatures.axes import lengths_beside

log = logging.getLogger(__name__)

#: A number beyond every index that is looked for.
FAR = 2**20 + 3

#: How bounds follow the length of an axis: as many times it, and over so many.
_MOST_OVER = 4
_RATIOS = (*((times, 1) for times in range(2, 5)), *((1, over) for over in range(2, _MOST_OVER + 1)))

_STEPS: Mapping[Literal["least", "greatest"], int] = {"least": -1, "greatest": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueBounds:
    """The bounds of an input's values, as in `TensorSpec`."""

    least: int | None = None
    greatest: int | None = None
    least_by: tuple[str, int] | None = None
    greatest_by: tuple[str, int] | None = None
    least_ratio: tuple[int, int] = (1, 1)
    greatest_ratio: tuple[int, int] = (1, 1)


def within_limits(
    module: Any, layout: Layout, arrays: Mapping[str, Any], name: str, known: tuple[int | None, int | None]
) -> ValueBounds:
    """Return the bounds of an input's values, found by trial where they were not known: numbers, or what the length of
    one axis decides on. A bound that moves otherwise is left to the model.

    Args:
        arrays: samples of the user.
        known: the least and the greatest value found so far.
    """
    found = ValueBounds(least=known[0], greatest=known[1])
    item = next(item for item in layout.inputs if item.name == name)
    if not is_plain(module) or item.kind != "given" or name in layout.steady:
        return found
    search = _Search(module, layout, arrays, name)
    try:
        for side in _STEPS:
            if getattr(found, side) is None:
                found = replace(found, **search.bound(side))
    except (ReadsNumberError, ExportError) as error:  # it counts, or takes long
        log.debug("limits of %s are not looked for: %r", name, error)
        return ValueBounds(least=known[0], greatest=known[1])
    return found


@dataclass(frozen=True, slots=True)
class _Search:
    """The search for the bounds of one input's values, at several lengths."""

    module: Any
    layout: Layout
    arrays: Mapping[str, Any]
    name: str

    def bound(self, side: Literal["least", "greatest"]) -> dict[str, Any]:
        """Return the fields of a `ValueBounds` for one side; empty: there is no bound, or none that is understood."""
        step, traced = _STEPS[side], self.layout.lengths
        limit = self._asked({}).last(step)
        if limit is None:
            return {}
        axes = self.layout.axes
        alone = {axis: [{axis: length} for length in lengths_beside(self.layout, axis)] for axis in axes}
        moving = [axis for axis in axes if not self._ends_at(limit, step, alone[axis])]
        beside = [{axis: lengths_beside(self.layout, axis)[place] for axis in axes} for place in (0, 1)]
        if not moving:
            return {side: limit} if not axes or self._ends_at(limit, step, beside) else {}
        if len(moving) > 1:
            return {}
        axis = moving[0]
        plus = limit - step * traced[axis]
        if all(self._ends_at(plus + step * place[axis], step, [place]) for place in beside):
            return {f"{side}_by": (axis, plus)}
        found = self._ratio(axis, step, limit)
        return {f"{side}_by": (axis, step * found[0]), f"{side}_ratio": found[1]} if found is not None else {}

    def _ratio(self, axis: str, step: int, limit: int) -> tuple[int, tuple[int, int]] | None:
        """Return what is added to the length of an axis, times the first number and over the second, to give the bound;
        None: it moves otherwise."""
        here = self.layout.lengths[axis]
        limits = {here: step * limit}
        for length in (*(here + more for more in range(1, _MOST_OVER)), *lengths_beside(self.layout, axis)):
            last = self._asked({axis: length}).last(step)
            if last is None:
                return None
            limits[length] = step * last
        for times, over in _RATIOS:
            # (length * times + plus) // over is the limit at each length, for what lies in all these intervals.
            starts = [last * over - length * times for length, last in limits.items()]
            if max(starts) < min(starts) + over:
                return max(starts), (times, over)
        return None

    def _ends_at(self, limit: int, step: int, places: Iterable[Mapping[str, int]]) -> bool:
        """Whether a value is the last that is taken at all these lengths."""
        return all(self._asked(lengths).ends_at(limit, step) for lengths in places)

    def _asked(self, lengths: Mapping[str, int]) -> _Asked:
        case = Case(name="limits", lengths=lengths, padding="none")
        return _Asked(self.module, draw(self.layout, case, self.arrays), self.name)


class _Asked:
    """Trials of values in the middle of one input of a call."""

    def __init__(self, module: Any, inputs: Arrays, name: str) -> None:
        self._module, self._inputs, self._name = module, inputs, name
        self._limits = np.iinfo(inputs[name].dtype)

    def last(self, step: int) -> int | None:
        """Return the value furthest up (`step` 1) or down (-1) that is taken; None: there is no limit."""
        array = self._inputs[self._name]
        taken = int(array.max() if step > 0 else array.min())
        try:
            self._takes(self._far(FAR, step))
            refused = self._far(FAR, step)
        except ReadsNumberError:  # as an index in Python, and it may count so far
            refused = self._far(COUNTED, step)
        if (refused - taken) * step <= 0 or self._takes(refused) or not self._takes(taken):
            return None
        while abs(refused - taken) > 1:
            middle = (taken + refused) // 2
            taken, refused = (middle, refused) if self._takes(middle) else (taken, middle)
        return taken

    def _far(self, number: int, step: int) -> int:
        """Return a number that far up or down, or the last of the type."""
        return min(number, int(self._limits.max)) if step > 0 else max(-number, int(self._limits.min))

    def ends_at(self, value: int, step: int) -> bool:
        """Whether a value is the last that is taken here too."""
        return self._takes(value) and not self._takes(value + step)

    def _takes(self, value: int) -> bool:
        array = self._inputs[self._name]
        # Where the samples' own numbers are too large for shorter inputs, the least of them may not be.
        return any(map(self._answers, (_holding(array, value), _holding(np.full_like(array, array.min()), value))))

    def _answers(self, array: np.ndarray[Any, Any]) -> bool:
        try:
            outputs_in_time(self._module, {**self._inputs, self._name: array})
        except (ReadsNumberError, ExportError):
            raise
        except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
            log.debug("%s: %r", self._name, error)
            return False
        return True


def _holding(array: np.ndarray[Any, Any], value: int) -> np.ndarray[Any, Any]:
    made = array.copy()
    made.flat[made.size // 2] = value
    return made
