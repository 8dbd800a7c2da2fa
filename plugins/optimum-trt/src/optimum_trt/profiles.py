"""Optimization profiles: the lengths of the axes that an engine takes, and those it is fastest at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from optimum_core.errors import OptionError
from optimum_core.types import TensorSpec
from optimum_trt.options import Range

Shape = tuple[int, ...]

#: Default ranges of axes, by a word in the axis' name; the first match counts.
_USUAL: tuple[tuple[str, Range], ...] = (
    ("batch", (1, 4, 32)),
    ("past", (0, 127, 511)),
    ("sequence", (1, 128, 512)),
    ("choices", (1, 4, 8)),
    ("height", (32, 224, 640)),
    ("width", (32, 224, 640)),
    ("samples", (1600, 16000, 480000)),
    ("frames", (16, 1000, 3000)),
)
_OTHERS: Range = (1, 16, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Shortest, likeliest and longest length of each named axis.

    Attributes:
        ranges: the ranges of axes with a length of their own; sums ("past+sequence") follow from them.
    """

    ranges: Mapping[str, Range]

    def shapes(self, spec: TensorSpec) -> tuple[Shape, Shape, Shape]:
        """Return an input's shortest, likeliest and longest shape."""
        short, likely, long = (tuple(self._length(axis, which) for axis in spec.shape) for which in range(3))
        return short, likely, long

    def _length(self, axis: int | str, which: int) -> int:
        if isinstance(axis, int):
            return axis
        return sum(int(part) if part.isdecimal() else self.ranges[part][which] for part in parts(axis))


def parts(axis: str) -> list[str]:
    """Return the terms of a sum of axes; an axis by itself is its only term.

    >>> parts("past + sequence")
    ['past', 'sequence']
    """
    return [part.strip() for part in axis.split("+")]


def general(
    inputs: Sequence[TensorSpec], shapes: Sequence[Mapping[str, int]], stated: Mapping[str, Range], who: str
) -> Profile:
    """Return the profile that takes every shape: the default or stated ranges, widened to the declared `shapes`.

    Raises:
        OptionError: a range is stated for an axis that does not vary.
    """
    axes = tuple(_axes(inputs))
    for axis in stated:
        if axis not in axes:
            remedy = f"its varying axes are {', '.join(axes) or 'none: leave ranges out'}"
            raise OptionError(who, f"option 'ranges': the model has no varying axis {axis!r}", remedy)
    ranges = {axis: stated.get(axis) or _usual(axis) for axis in axes}
    for shape in shapes:
        for axis, length in shape.items():
            if axis in ranges:
                low, likely, high = ranges[axis]
                ranges[axis] = min(low, length), likely, max(high, length)
    return Profile(ranges=ranges)


def groups(profile: Profile, shapes: Iterable[Mapping[str, int]]) -> tuple[Profile, ...]:
    """Return one profile for each declared shape, of that one length on each axis that it states."""
    found = []
    for shape in shapes:
        exact = {axis: (length, length, length) for axis, length in shape.items() if axis in profile.ranges}
        if exact:
            found.append(replace(profile, ranges={**profile.ranges, **exact}))
    return tuple({tuple(item.ranges.items()): item for item in found}.values())


def shortened(profile: Profile, lengths: Iterable[int], keep: Sequence[Mapping[str, int]]) -> Profile | None:
    """Return the profile with the longest lengths reduced, after a model refused them; None: they cannot be reduced
    further.

    A model does not state the limits of its axes; but a table of positions has as many rows, so the lengths of its
    constants are tried in decreasing order, with powers of two between them. Batches are never the cause.
    """
    candidates = {*lengths, *(1 << power for power in range(20))}
    ranges = dict(profile.ranges)
    for axis, (low, likely, high) in profile.ranges.items():
        if "batch" in axis:
            continue
        floor = max([low, 1, *(shape[axis] for shape in keep if axis in shape)])
        below = [length for length in candidates if floor <= length < high]
        if below:
            ranges[axis] = low, min(likely, max(below)), max(below)
    return None if ranges == profile.ranges else replace(profile, ranges=ranges)


def lengthened(profile: Profile, keep: Sequence[Mapping[str, int]]) -> Profile | None:
    """Return the profile with the shortest lengths doubled, after a model refused them; None: they equal the likeliest
    already.
    """
    ranges = dict(profile.ranges)
    for axis, (low, likely, high) in profile.ranges.items():
        if "batch" in axis:
            continue
        ceiling = min([likely, *(shape[axis] for shape in keep if axis in shape)])
        ranges[axis] = max(low, min(max(2 * low, 1), ceiling)), likely, high
    return None if ranges == profile.ranges else replace(profile, ranges=ranges)


def _axes(inputs: Sequence[TensorSpec]) -> Iterator[str]:
    names = dict.fromkeys(axis for spec in inputs for axis in spec.shape if isinstance(axis, str))
    parted = dict.fromkeys(part for axis in names for part in parts(axis))
    yield from (part for part in parted if not part.isdecimal())


def _usual(axis: str) -> Range:
    return next((found for word, found in _USUAL if word in axis), _OTHERS)
