"""Detection of the axes that vary, and of their ranges: the layout proposes, runs of the eager model decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from optimum_core.models.inputs.layouts import PICTURE, Layout
from optimum_core.models.signatures.eager_trials import Shapes, Trials, longest_taken, tables_of
from optimum_core.models.signatures.switches import LONGEST, Numbers, lengths_around, with_rungs
from optimum_core.types import AxisRange
from optimum_core.types.tensors import FixedAxis, is_batch, places_of

_STEPS = {"samples": 1600, "frames": 32, "height": 32, "width": 32}
#: Length beyond the windows and buckets of most attention patterns; up to here, no case is left out as too slow, unless
#: a budget is stated.
LONG = 200
#: Rows of a call with more than any other case has, and more than `map` batches by default.
MANY = 33

_NOT_ALL = "the eager model takes some other lengths, but not all that were tried"

Axes = tuple[int | str, ...]
#: The outputs' shapes by axis and length, other axes as traced; None: the eager model refuses the length.
ShapesAt = dict[tuple[str, int], Shapes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The axes' properties as found by trial.

    Attributes:
        layout: axes that do not vary are fixed; lengths to trace with all differ.
        configured: by axis, the length that the configuration and the samples say, before lengths were made to differ.
        shapes: those of the outputs at other lengths.
        ranges: the lengths that the eager model takes, for axes with a limit.
        fixed: axes that are fixed though the eager model takes some other lengths.
        eager_axes: by input, the axes with names for those as well.
    """

    layout: Layout
    configured: Mapping[str, int]
    shapes: ShapesAt
    ranges: Mapping[str, AxisRange]
    fixed: tuple[FixedAxis, ...] = ()
    eager_axes: Mapping[str, Axes] = field(default_factory=dict)


def fixed_axes(before: Layout, after: Layout, why: str) -> tuple[FixedAxis, ...]:
    """Return the axes that vary in one layout and are fixed in another."""
    places = places_of((item.name, item.axes) for item in before.inputs)
    found: dict[str, int] = {}
    for item in before.inputs:
        now = next((other.axes for other in after.inputs if other.name == item.name), item.axes)
        found.update(
            {axis: n for axis, n in zip(item.axes, now, strict=True) if isinstance(axis, str) and isinstance(n, int)}
        )
    return tuple(FixedAxis(place=places.get(axis, axis), length=length, why=why) for axis, length in found.items())


def lengths_beside(layout: Layout, axis: str) -> tuple[int, ...]:
    """Return two lengths to try an axis at, other than the traced one: longer and shorter."""
    length = layout.lengths[axis]
    if is_batch(axis):
        return (3 if length != 3 else 2, 1)
    if axis in _STEPS:
        return (length + _STEPS[axis], max(1, length - _STEPS[axis] if length > 2 * _STEPS[axis] else length // 2))
    longest = layout.longest(axis)
    return (min(2 * length + 3, longest), max(1, length - 3 if length > 4 else length - 1))


def off_the_grid(layout: Layout, patch: int) -> tuple[Mapping[str, int], ...]:
    """Return sizes of pictures that no patch divides: for each axis alone, and for both at once."""
    beside = {"height": (1, -5), "width": (max(patch - 1, 3), 3)}
    axes = [axis for axis in PICTURE if axis in layout.axes]
    alone = [{axis: layout.lengths[axis] + beside[axis][0]} for axis in axes]
    both = {axis: max(1, layout.lengths[axis] + beside[axis][1]) for axis in axes}
    return (*alone, both) if len(axes) > 1 else tuple(alone)


def settle(trials: Trials, layout: Layout, patch: int = 1) -> Settled:
    """Fix the axes that do not vary, at their configured lengths; give the others lengths that differ from each other,
    and try them again there."""
    configured = {**layout.lengths, **layout.stated}
    before = layout = _with_places(trials, layout)
    ranges: dict[str, AxisRange] = {}
    runs: ShapesAt = {}
    refused = layout
    for axis in layout.axes:
        tried = _tried(trials, layout, axis, ranges)
        runs.update(tried)
        if not _varies(trials, layout, axis, tried, ranges.get(axis), patch):
            layout = layout.pinned(axis, configured[axis])
            refused = refused if any(tried.values()) else refused.pinned(axis, configured[axis])
    for axis in _taken_by_accident(trials, layout):
        layout, refused = (each.pinned(axis, configured[axis]) for each in (layout, refused))
    if any(configured[axis] != before.lengths[axis] for axis in set(before.axes) - set(layout.axes)):
        runs = {(axis, length): trials.shapes(layout, {axis: length}) for axis, length in runs if axis in layout.axes}
    apart = _apart(layout)
    if apart != layout:
        layout, runs = _again(trials, layout, apart, runs)
    if trials.shapes(layout, {}) is None:  # lengths that run each alone do not run together
        layout, runs = _at(layout, configured), {}
    ranges = {axis: found for axis, found in ranges.items() if axis in layout.axes}
    fixed = fixed_axes(refused, layout, _NOT_ALL)
    taken = {item.name: item.axes for item in refused.inputs} if fixed else {}
    return Settled(layout=layout, configured=configured, shapes=runs, ranges=ranges, fixed=fixed, eager_axes=taken)


def _taken_by_accident(trials: Trials, layout: Layout) -> tuple[str, ...]:
    """Return axes whose other lengths the eager model takes only while an earlier axis has the samples' length: in
    `x.reshape(-1, 8)`, eight positions of any number of features have as many numbers as some of eight features."""
    axes = [axis for axis in layout.axes if not is_batch(axis) and axis not in _STEPS]
    for first, later in combinations(axes, 2):
        pairs = tuple(zip(lengths_beside(layout, first), lengths_beside(layout, later), strict=True))
        if all(trials.shapes(layout, {first: one, later: other}) is None for one, other in pairs):
            return (later,)
    return ()


def _with_places(trials: Trials, layout: Layout) -> Layout:
    """Return the layout with whole numbers as places, if the eager model refuses a shorter axis for their sake."""
    names = {
        item.name
        for item in layout.inputs
        if item.kind == "given" and item.name not in layout.steady and trials.arrays[item.name].dtype.kind in "iu"
    }
    nearer = replace(layout, places=frozenset(names))
    for axis in layout.axes if names else ():
        for length in sorted({lengths_beside(layout, axis)[1], layout.lengths[axis] // 2, 2, 1}):
            shorter = {axis: length}
            if trials.shapes(layout, shorter) is None and trials.shapes(nearer, shorter) is not None:
                return nearer
    return layout


def _at(layout: Layout, lengths: Mapping[str, int]) -> Layout:
    """Return the layout with every axis fixed at these lengths."""
    for axis in layout.axes:
        layout = layout.pinned(axis, lengths[axis])
    return layout


def _tried(trials: Trials, layout: Layout, axis: str, ranges: dict[str, AxisRange]) -> ShapesAt:
    """Return the runs of an axis at two other lengths, or as near to them as the eager model takes."""
    here = layout.lengths[axis]
    longer, shorter = lengths_beside(layout, axis)
    runs: ShapesAt = {(axis, length): trials.shapes(layout, {axis: length}) for length in (longer, shorter)}
    if axis in PICTURE or is_batch(axis) or None not in runs.values() or longer <= here:
        return runs
    if runs[axis, longer] is None:
        greatest = trials.longest(layout, axis, here, longer)
        ranges[axis] = AxisRange(greatest=greatest, why=f"the model takes {greatest} at most")
        nearer = [length for length in (greatest, here - 1, here // 2) if length not in (here, shorter) and length > 0]
        runs.update({(axis, length): trials.shapes(layout, {axis: length}) for length in nearer[:1]})
    return runs


def _varies(trials: Trials, layout: Layout, axis: str, tried: ShapesAt, found: AxisRange | None, patch: int) -> bool:
    """Whether an axis runs at two other lengths, and at those next to its own."""
    others = [length for (_, length), shapes in tried.items() if shapes is not None]
    if len(others) < 2:
        return False
    if axis in PICTURE:
        return all(trials.shapes(layout, lengths) for lengths in off_the_grid(layout, patch) if set(lengths) == {axis})
    if found is None:
        return True
    here = layout.lengths[axis]
    next_to_it = {here - 1, min(here + 1, found.greatest or here)} - {0}
    return all(trials.shapes(layout, {axis: length}) for length in next_to_it)


def _apart(layout: Layout) -> Layout:
    lengths, taken = dict(layout.lengths), set[int]()
    for axis in layout.axes:
        while lengths[axis] in taken:
            lengths[axis] += _STEPS.get(axis, 1)
        taken.add(lengths[axis])
    return replace(layout, lengths=lengths) if lengths != dict(layout.lengths) else layout


def _again(trials: Trials, before: Layout, apart: Layout, runs: ShapesAt) -> tuple[Layout, ShapesAt]:
    """Try the axes at lengths that differ; fix an axis that is refused there at its previous length."""
    moved = [axis for axis in before.axes if apart.lengths[axis] != before.lengths[axis]]
    if trials.shapes(apart, {}) is None:
        same = {before.lengths[axis] for axis in moved}
        for axis in [axis for axis in before.axes if before.lengths[axis] in same and not is_batch(axis)]:
            before = before.pinned(axis, before.lengths[axis])
        return before, runs
    again: ShapesAt = {}
    for axis in apart.axes:
        beside = lengths_beside(apart, axis) if axis in moved else [n for name, n in runs if name == axis]
        again.update({(axis, length): trials.shapes(apart, {axis: length}) for length in beside if length})
        if axis in moved and any(again[axis, length] is None for length in beside):
            lengths = {**apart.lengths, axis: before.lengths[axis]}
            apart = replace(apart.pinned(axis, before.lengths[axis]), lengths=lengths)
    return apart, again


def reach(trials: Trials, settled: Settled, numbers: Numbers) -> dict[str, AxisRange]:
    """Return the range of each axis that stands for a text, a sound or an edge of pictures, or that comes from samples;
    sounds and edges have no greatest length."""
    ranges = dict(settled.ranges)
    for axis in settled.layout.axes:
        if is_batch(axis) or axis == "choices":
            continue
        ran = [length for (name, length), shapes in settled.shapes.items() if name == axis and shapes is not None]
        ran.append(settled.layout.lengths[axis])
        if (
            axis not in (*ranges, *_STEPS)
            and (found := _longest(trials, settled.layout, axis, max(ran), numbers)) is not None
        ):
            ranges[axis] = found
        least = trials.shortest(settled.layout, axis, min(ran))
        if least > 1 and not (axis in _STEPS and _takes_less(trials, settled.layout, axis, least)):
            ranges[axis] = replace(ranges.get(axis, AxisRange()), least=least)
    return ranges


def _takes_less(trials: Trials, layout: Layout, axis: str, least: int) -> bool:
    """Whether a length below one that seems the least is taken after all, as where only multiples of a number are."""
    below = {least - 2, least - 3, least - 4, least - 8, 3 * least // 4, least // 2}
    return any(trials.shapes(layout, {axis: length}) is not None for length in sorted(below) if length > 0)


def _longest(trials: Trials, layout: Layout, axis: str, taken: int, numbers: Numbers) -> AxisRange | None:
    """Return the range of an axis that the model has a greatest length for, or None."""
    greatest = longest_taken(trials, layout, axis, taken, [*numbers.positions, *tables_of(trials.module)])
    if greatest is not None:
        return AxisRange(greatest=greatest, why=f"the model has {greatest} positions")
    if numbers.positions and min(numbers.positions) > LONGEST:
        most = min(numbers.positions)
        return AxisRange(greatest=most, why=f"the configuration says {most} positions; no longer was tried")
    return None


def further_lengths(
    settled: Settled,
    ranges: Mapping[str, AxisRange],
    numbers: Numbers,
    turns: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Return by axis the lengths beyond those beside the traced one to compare at, as far as time permits.

    Args:
        turns: by axis, the lengths after which the model's code decides otherwise; both sides are compared.
    """
    found = dict(_further(settled.layout, ranges, numbers))
    for axis, after in turns.items():
        known = ranges.get(axis, AxisRange())
        both = (length for turn in after for length in (turn, turn + 1))
        within = {length for length in both if known.least <= length <= (known.greatest or LONGEST)}
        lengths, here = sorted({*found.get(axis, ()), *within}), max(LONG, settled.layout.lengths[axis])
        near, far = [n for n in lengths if n <= here], [n for n in lengths if n > here]
        found[axis] = (*near, *with_rungs(far, here))
    return {axis: lengths for axis, lengths in found.items() if lengths}


def _further(
    layout: Layout, ranges: Mapping[str, AxisRange], numbers: Numbers
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for axis in layout.axes:
        here = layout.lengths[axis]
        if axis == "batch":
            yield axis, (MANY,)
        elif axis in ("samples", "frames"):
            yield axis, (ranges.get(axis, AxisRange()).least, 4 * here)
        elif axis not in PICTURE and not is_batch(axis) and axis != "choices":
            known = ranges.get(axis, AxisRange())
            limit = known.greatest
            beside = max(lengths_beside(layout, axis)[0], here)
            named = numbers if axis == "sequence" else replace(numbers, switches=())
            lengths = lengths_around(named if "sequence" in axis else Numbers(), beside, limit)
            long = {LONG} if (limit or LONG + 1) > LONG else set()
            shortest = {known.least, min(known.least + 1, limit or LONG)}  # where slices and pieces are empty
            near = sorted({*shortest, *long, *(length for length in lengths if length <= LONG)})
            near = [length for length in near if length >= known.least]
            yield axis, (*near, *with_rungs([length for length in lengths if length > LONG], LONG))


def patch_of(config: Any) -> int:
    """Return the edge of the patches that pictures are cut into, as configured; 1 if the configuration has none."""
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        size = getattr(part, "patch_size", None)
        size = size[0] if isinstance(size, list | tuple) and size else size
        if isinstance(size, int) and size > 1:
            return size
    return 1
