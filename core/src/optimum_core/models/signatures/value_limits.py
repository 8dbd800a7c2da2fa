"""The least and the greatest whole number that a model takes of the user's samples, where no table of its own bounds
them: places in another input or a constant, classes that are written out; and columns with a table each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from optimum_core.errors import ExportError
from optimum_core.models.eager.bounded_calls import COUNTED, ReadsNumberError, outputs_in_time
from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.inputs.special_forms import ANY_VALUES
from optimum_core.models.signatures.axes import lengths_beside
from optimum_core.models.signatures.eager_trials import tables_of
from optimum_core.types.arrays import Arrays, NDArray

log = logging.getLogger(__name__)

#: A number beyond every index that is looked for.
FAR_INDEX = 2**20 + 3

#: Most whole numbers of an input that are tried at once.
_MOST_VALUES = 2**20
#: Most places along the last axis that are asked for bounds of their own.
_MOST_COLUMNS = 64

#: Most calls for one bound, and most seconds for those of an input of floats.
_MOST_CALLS, _MOST_SECONDS = 100, 60.0
#: Draws of values within the bounds of all columns, of which the model has to take each.
_DRAWS = 8

#: The least and the greatest number at each place along the last axis.
Columns = tuple[tuple[float | None, float | None], ...]
#: Greatest divisor of a length that a bound may follow.
_MOST_OVER = 4
#: How bounds follow the length of an axis: so many times it, over so many.
_RATIOS = (*((times, 1) for times in range(2, 5)), *((1, over) for over in range(2, _MOST_OVER + 1)))

_STEPS: Mapping[Literal["least", "greatest"], int] = {"least": -1, "greatest": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueBounds:
    """The bounds of an input's values, as in `TensorSpec`."""

    least: int | None = None
    greatest: int | None = None
    least_by: tuple[str, int] | None = None
    greatest_by: tuple[str, int] | None = None
    columns: Columns | None = None
    least_ratio: tuple[int, int] = (1, 1)
    greatest_ratio: tuple[int, int] = (1, 1)


def value_bounds(
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
    plain = is_plain(module)
    if item.kind not in {*ANY_VALUES, "spans"} or (name in layout.steady and not plain):
        return found
    # A library's model may make something as large as a number says: only places in its inputs are looked for.
    far = _beyond_tables(module) if plain else 2 * max(layout.lengths.values(), default=0) + 1
    search = _BoundSearch(module, layout, arrays, name, far)
    try:
        for side in _STEPS:
            if getattr(found, side) is None and name not in layout.steady:
                found = replace(found, **search.bound(side))
        if plain or known != (None, None):
            found = search.by_column(found)
    except (ReadsNumberError, ExportError) as error:  # it counts, or takes long
        log.debug("limits of %s are not looked for: %r", name, error)
        return ValueBounds(least=known[0], greatest=known[1])
    return found


def float_limits(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Iterator[tuple[str, ValueBounds]]:
    """Yield the bounds of floats of which a plain module refuses others, as where it makes whole numbers of them and
    looks these up.

    Args:
        arrays: samples of the user.
    """
    if not is_plain(module):
        return
    for item in layout.inputs:
        finite = np.isfinite(arrays.get(item.name, 0.0)).all()
        if item.kind == "given" and item.dtype in ("float32", "float64") and finite:
            try:
                search = _BoundSearch(module, layout, arrays, item.name, _beyond_tables(module))
                columns = search.columns() if search.may_be_bounded() else ()
            except (ReadsNumberError, ExportError) as error:
                log.debug("limits of %s are not looked for: %r", item.name, error)
                continue
            if columns:
                yield item.name, ValueBounds(columns=columns)


def _beyond_tables(module: Any) -> int:
    """Return a number beyond every index that is looked for, and beyond the rows of the module's tables."""
    return max(FAR_INDEX, *tables_of(module), 0)


@dataclass(frozen=True, slots=True)
class _BoundSearch:
    """The search for the bounds of one input's values, at several lengths."""

    module: Any
    layout: Layout
    arrays: Mapping[str, Any]
    name: str
    far: int

    def bound(self, side: Literal["least", "greatest"]) -> dict[str, Any]:
        """Return the fields of a `ValueBounds` for one side; empty: there is no bound, or none that is understood."""
        step, traced = _STEPS[side], self.layout.lengths
        limit = self._trials({}).last(step)
        if limit is None:
            return {}
        axes = self.layout.axes
        alone = {axis: [{axis: length} for length in lengths_beside(self.layout, axis)] for axis in axes}
        moving = [axis for axis in axes if not self._ends_at(limit, step, alone[axis])]
        beside = self._beside()
        if not moving:
            return {side: limit} if not axes or self._ends_at(limit, step, beside) else {}
        if len(moving) > 1:
            return {}
        axis = moving[0]
        plus = limit - step * traced[axis]
        if all(self._ends_at(plus + step * place[axis], step, [place]) for place in beside):
            return {f"{side}_by": (axis, plus)}
        found = self._ratio(axis, step, limit)
        if found is None:
            return {}
        plus, (times, over) = found
        ends = ((step * ((place[axis] * times + plus) // over), place) for place in beside)
        if not all(self._ends_at(end, step, [place]) for end, place in ends):
            return {}
        return {f"{side}_by": (axis, step * plus), f"{side}_ratio": (times, over)}

    def _ratio(self, axis: str, step: int, limit: int) -> tuple[int, tuple[int, int]] | None:
        """Return what is added to the length of an axis, times the first number and over the second, to give the bound;
        None: it moves otherwise."""
        here = self.layout.lengths[axis]
        limits = {here: step * limit}
        for length in (*(here + more for more in range(1, _MOST_OVER)), *lengths_beside(self.layout, axis)):
            last = self._trials({axis: length}).last(step)
            if last is None:
                return None
            limits[length] = step * last
        for times, over in _RATIOS:
            # (length * times + plus) // over is the limit at each length, for what lies in all these intervals.
            starts = [last * over - length * times for length, last in limits.items()]
            if max(starts) < min(starts) + over:
                return max(starts), (times, over)
        return None

    def by_column(self, found: ValueBounds) -> ValueBounds:
        """Return the bounds with those of each place along the last axis, if these differ."""
        if found.least_by or found.greatest_by or self._places() == (None,):
            return found
        columns = self.columns(found.least, found.greatest)
        if not columns:
            return found
        least, greatest = zip(*columns, strict=True)
        return replace(
            found,
            least=None if None in least else min(least),
            greatest=None if None in greatest else max(greatest),
            columns=columns if len(columns) > 1 else None,
        )

    def _places(self) -> tuple[int | None, ...]:
        """Return the places along the last axis; of a single axis, or of many places, one that stands for all."""
        last = self._width({})
        return tuple(range(last)) if 0 < last <= _MOST_COLUMNS else (None,)

    def _width(self, lengths: Mapping[str, int]) -> int:
        """Return the number of places along the last axis, if there is one besides the first."""
        item = next(item for item in self.layout.inputs if item.name == self.name)
        return self.layout.shape(item, lengths)[-1] if len(item.axes) > 1 else 0

    def may_be_bounded(self) -> bool:
        """Whether the model refuses numbers far up everywhere, or far down, in calls short enough for a search."""
        start = time.process_time()
        bounded = self._trials({}).refuses_far()
        calls = 2 * _MOST_CALLS * len(self._places())
        return bounded and calls * (time.process_time() - start) / 2 < _MOST_SECONDS

    def columns(self, least: int | None = None, greatest: int | None = None) -> Columns:
        """Return the bounds of each place along the last axis; one pair where all are alike or may vary in number; none
        where the model does not take all that lies within, or other lengths move them.

        Args:
            least, greatest: those expected.
        """
        places = self._places()
        asked = [self._trials({}, place) for place in places]
        found = tuple((one.end(least, -1), one.end(greatest, 1)) for one in asked)
        if all(column == (None, None) for column in found) or not asked[0].takes_all_within(found):
            return ()
        for lengths in self._beside() if self.layout.axes else ():
            width = self._width(lengths)
            there = [pair for pair in zip(places, found, strict=True) if pair[0] is None or pair[0] < width]
            if not all(self._trials(lengths, place).has(*pair) for place, pair in there):
                return ()
        return found if len(set(found)) > 1 else found[:1]

    def _beside(self) -> list[dict[str, int]]:
        """Return lengths of all axes other than the traced ones, longer and shorter."""
        return [{axis: lengths_beside(self.layout, axis)[place] for axis in self.layout.axes} for place in (0, 1)]

    def _ends_at(self, limit: int, step: int, places: Iterable[Mapping[str, int]]) -> bool:
        """Whether a value is the last that is taken at all these lengths."""
        return all(self._trials(lengths).ends_at(limit, step) for lengths in places)

    def _trials(self, lengths: Mapping[str, int], place: int | None = None) -> _ValueTrials:
        case = Case(name="limits", lengths=lengths, padding="none")
        return _ValueTrials(self.module, draw(self.layout, case, self.arrays), self.name, self.far, place)


class _ValueTrials:
    """Trials of values in the middle of one input of a call.

    Args:
        far: a number beyond every index that is looked for.
        column: the place along the last axis; None: that in the middle.
    """

    def __init__(self, module: Any, inputs: Arrays, name: str, far: int, column: int | None = None) -> None:
        self._module, self._inputs, self._name, self._column = module, inputs, name, column
        self._far_number = far
        dtype = inputs[name].dtype
        self._limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)

    def last(self, step: int) -> Any:
        """Return the value furthest up (`step` 1) or down (-1) that is taken; None: there is no limit."""
        array = self._inputs[self._name]
        usual = array if self._column is None else array[..., self._column]
        taken = (usual.max() if step > 0 else usual.min()).item()
        try:
            refused = self._far(self._far_number, step)
            self._takes(refused)
        except ReadsNumberError:  # as an index in Python, and it may count so far
            refused = self._far(min(COUNTED, self._far_number), step)
        if (refused - taken) * step <= 0 or self._takes(refused) or not self._takes(taken):
            return None
        while (middle := self._between(taken, refused)) not in (taken, refused):
            taken, refused = (middle, refused) if self._takes(middle) else (taken, middle)
        return taken

    def _between(self, taken: Any, refused: Any) -> Any:
        dtype = self._inputs[self._name].dtype
        return (taken + refused) // 2 if dtype.kind != "f" else dtype.type((taken + refused) / 2).item()

    def refuses_far(self) -> bool:
        """Whether the model refuses this input with numbers that are far up everywhere, or far down."""
        array = self._inputs[self._name]
        return not all(self._answers(np.full_like(array, self._far(self._far_number, step))) for step in (1, -1))

    def takes_all_within(self, columns: Columns) -> bool:
        """Whether the model takes any values within bounds, and so none of these depends on another."""
        array = self._inputs[self._name]
        rng = np.random.default_rng(7)
        return all(self._answers(drawn_within(columns, array, rng)) for _ in range(_DRAWS))

    def _far(self, number: int, step: int) -> int:
        """Return a number that far up or down, or the last of the type."""
        return min(number, int(self._limits.max)) if step > 0 else max(-number, int(self._limits.min))

    def end(self, expected: int | None, step: int) -> Any:
        """Return the value furthest up or down that is taken, found faster if it is the expected one; None: there is no
        limit."""
        return expected if expected is not None and self.ends_at(expected, step) else self.last(step)

    def has(self, least: float | None, greatest: float | None) -> bool:
        """Whether these are the bounds here too; None: any."""
        return all(limit is None or self.ends_at(limit, step) for limit, step in ((least, -1), (greatest, 1)))

    def ends_at(self, value: Any, step: int) -> bool:
        """Whether a value is the last that is taken here too."""
        return self._takes(value) and not self._takes(value + step)

    def _takes(self, value: Any) -> bool:
        array = self._inputs[self._name]
        if not self._limits.min <= value <= self._limits.max:
            return False
        # Where the samples' own numbers are too large for shorter inputs, the least of them may not be.
        return any(self._answers(self._holding(base, value)) for base in (array, np.full_like(array, array.min())))

    def _holding(self, array: NDArray, value: Any) -> NDArray:
        made = array.copy()
        if self._column is None:
            made.flat[made.size // 2] = value
        else:
            made[..., self._column].flat[made[..., 0].size // 2] = value
        return made

    def _answers(self, array: NDArray) -> bool:
        try:
            outputs_in_time(self._module, {**self._inputs, self._name: array})
        except (ReadsNumberError, ExportError):
            raise
        except Exception as error:  # noqa: BLE001 - the eager model refuses it, by an error of any type
            log.debug("%s: %r", self._name, error)
            return False
        return True


def drawn_within(columns: Columns, like: NDArray, rng: np.random.Generator) -> NDArray:
    """Return an input with whole numbers over all that it takes at each place along the last axis; where one lacks a
    bound, what is there stays. One pair of bounds holds for all places."""
    made = like.copy()
    shared = range(min(len(columns), like.shape[-1])) if len(columns) > 1 else ()
    for view, (least, greatest) in zip([made[..., index] for index in shared] or [made], columns, strict=False):
        if least is not None and greatest is not None:
            first, last = math.ceil(least), math.floor(greatest)
            if first <= last:
                view[...] = np.resize(_all_between(first, last, rng), view.shape)
    return made


def _all_between(least: int, greatest: int, rng: np.random.Generator) -> NDArray:
    """Return whole numbers between two, in any order, but first the two: a small input has these at least."""
    last = min(greatest, least + _MOST_VALUES)
    return np.concatenate(([greatest, least], rng.permutation(np.arange(least + 1, last))))
