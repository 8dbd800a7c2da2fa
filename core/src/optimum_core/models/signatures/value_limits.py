"""The least and the greatest whole number that a model takes of the user's samples, where no table of its own bounds
them: places in another input or a constant, classes that are written out; and columns with a table each."""

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
from optimum_core.models.inputs.special_forms import ANY_VALUES
from optimum_core.models.signatures.axes import lengths_beside

log = logging.getLogger(__name__)

#: A number beyond every index that is looked for.
FAR = 2**20 + 3

#: Most places along the last axis that are asked for bounds of their own.
_MOST_COLUMNS = 64

_STEPS: Mapping[Literal["least", "greatest"], int] = {"least": -1, "greatest": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueBounds:
    """The bounds of an input's values, as in `TensorSpec`."""

    least: int | None = None
    greatest: int | None = None
    least_by: tuple[str, int] | None = None
    greatest_by: tuple[str, int] | None = None
    columns: tuple[tuple[int | None, int | None], ...] | None = None


def within_limits(
    module: Any, layout: Layout, arrays: Mapping[str, Any], name: str, known: tuple[int | None, int | None]
) -> ValueBounds:
    """Return the bounds of an input's values, found by trial where they were not known: numbers, what the length of
    one axis decides on, or numbers for each place along the last axis. A bound that moves otherwise is left to the
    model.

    Args:
        arrays: samples of the user.
        known: the least and the greatest value found so far.
    """
    found = ValueBounds(least=known[0], greatest=known[1])
    item = next(item for item in layout.inputs if item.name == name)
    if item.kind not in {*ANY_VALUES, "spans"} or name in layout.steady:
        return found
    plain = is_plain(module)
    # A library's model may make something as large as a number says: only places in its inputs are looked for.
    search = _Search(module, layout, arrays, name, FAR if plain else 2 * max(layout.lengths.values(), default=0) + 1)
    try:
        for side in _STEPS:
            if getattr(found, side) is None:
                found = replace(found, **search.bound(side))
        if plain or known != (None, None):
            found = search.by_column(found)
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
    far: int

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
        follows = all(self._ends_at(plus + step * place[axis], step, [place]) for place in beside)
        return {f"{side}_by": (axis, plus)} if follows else {}

    def by_column(self, found: ValueBounds) -> ValueBounds:
        """Return the bounds with those of each place along the last axis, if these differ."""
        item = next(item for item in self.layout.inputs if item.name == self.name)
        count = item.axes[-1] if len(item.axes) > 1 else 0
        if not isinstance(count, int) or not 2 <= count <= _MOST_COLUMNS or found.least_by or found.greatest_by:
            return found
        inputs = draw(self.layout, Case(name="limits", padding="none"), self.arrays)
        asked = [_Asked(self.module, inputs, self.name, self.far, column) for column in range(count)]
        columns = tuple((one.end(found.least, -1), one.end(found.greatest, 1)) for one in asked)
        if len(set(columns)) == 1:
            return replace(found, least=columns[0][0], greatest=columns[0][1])
        least, greatest = zip(*columns, strict=True)
        return replace(
            found,
            least=None if None in least else min(least),
            greatest=None if None in greatest else max(greatest),
            columns=columns,
        )

    def _ends_at(self, limit: int, step: int, places: Iterable[Mapping[str, int]]) -> bool:
        """Whether a value is the last that is taken at all these lengths."""
        return all(self._asked(lengths).ends_at(limit, step) for lengths in places)

    def _asked(self, lengths: Mapping[str, int]) -> _Asked:
        case = Case(name="limits", lengths=lengths, padding="none")
        return _Asked(self.module, draw(self.layout, case, self.arrays), self.name, self.far)


class _Asked:
    """Trials of values in the middle of one input of a call.

    Args:
        far: a number beyond every index that is looked for.
        column: the place along the last axis; None: that in the middle.
    """

    def __init__(self, module: Any, inputs: Arrays, name: str, far: int, column: int | None = None) -> None:
        self._module, self._inputs, self._name, self._column = module, inputs, name, column
        self._greatest = far
        self._limits = np.iinfo(inputs[name].dtype)

    def last(self, step: int) -> int | None:
        """Return the value furthest up (`step` 1) or down (-1) that is taken; None: there is no limit."""
        array = self._inputs[self._name]
        usual = array if self._column is None else array[..., self._column]
        taken = int(usual.max() if step > 0 else usual.min())
        try:
            refused = self._far(self._greatest, step)
            self._takes(refused)
        except ReadsNumberError:  # as an index in Python, and it may count so far
            refused = self._far(min(COUNTED, self._greatest), step)
        if (refused - taken) * step <= 0 or self._takes(refused) or not self._takes(taken):
            return None
        while abs(refused - taken) > 1:
            middle = (taken + refused) // 2
            taken, refused = (middle, refused) if self._takes(middle) else (taken, middle)
        return taken

    def _far(self, number: int, step: int) -> int:
        """Return a number that far up or down, or the last of the type."""
        return min(number, int(self._limits.max)) if step > 0 else max(-number, int(self._limits.min))

    def end(self, expected: int | None, step: int) -> int | None:
        """Return what `last` does.

        Args:
            expected: it may be this value.
        """
        return expected if expected is not None and self.ends_at(expected, step) else self.last(step)

    def ends_at(self, value: int, step: int) -> bool:
        """Whether a value is the last that is taken here too."""
        return self._takes(value) and not self._takes(value + step)

    def _takes(self, value: int) -> bool:
        array = self._inputs[self._name]
        # Where the samples' own numbers are too large for shorter inputs, the least of them may not be.
        return any(self._answers(self._holding(base, value)) for base in (array, np.full_like(array, array.min())))

    def _holding(self, array: np.ndarray[Any, Any], value: int) -> np.ndarray[Any, Any]:
        made = array.copy()
        if self._column is None:
            made.flat[made.size // 2] = value
        else:
            made[..., self._column].flat[made[..., 0].size // 2] = value
        return made

    def _answers(self, array: np.ndarray[Any, Any]) -> bool:
        try:
            outputs_in_time(self._module, {**self._inputs, self._name: array})
        except (ReadsNumberError, ExportError):
            raise
        except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
            log.debug("%s: %r", self._name, error)
            return False
        return True
