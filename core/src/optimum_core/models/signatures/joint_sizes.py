"""Lengths of two axes at which the model's own code decides otherwise, though neither does so alone.

`if x.shape[2] > x.shape[3]` turns at no length of either axis but at pairs of them, and so does `x.numel() > 5000`.
Sizes follow each of the two lengths in a line, so that four runs of the eager model tell how such a comparison turns
out at all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product

import numpy as np

from optimum_core.models.inputs.layouts import PICTURE, Layout
from optimum_core.models.signatures.size_branches import results_at
from optimum_core.models.signatures.size_records import ComparisonsAt, Sides
from optimum_core.models.signatures.switches import LONGEST
from optimum_core.types.arrays import NDArray

#: Most pairs of lengths at which comparisons turn, for two axes: the nearest to the traced ones.
MOST_PAIRS = 3
#: Lengths up to which each is looked at, beside every length of the other axis; beyond, every fifth more.
_SMALL = 40

#: The lengths of both axes at each point.
Grid = Sequence[NDArray]


def joint_switches(
    comparisons_at: ComparisonsAt, layout: Layout, beside: Callable[[Layout, str], tuple[int, ...]]
) -> tuple[Mapping[str, int], ...]:
    """Return pairs of lengths at which a comparison of sizes has another result than at the traced lengths, and than
    with either of the two alone; and each once more one step nearer to these, where the result is still the usual one.

    Args:
        comparisons_at: returns the comparisons of a run at some lengths.
        beside: other lengths to try an axis at.
    """
    found: list[Mapping[str, int]] = []
    for first, second in combinations(layout.axes, 2):
        pair = _Pair(layout, first, second, beside)
        for lengths in pair.turns(comparisons_at):
            nearer = {axis: n + (1 if n < layout.lengths[axis] else -1) for axis, n in lengths.items()}
            found += [lengths, *([nearer] if all(n != layout.lengths[axis] for axis, n in nearer.items()) else [])]
    return tuple(found)


class _Pair:
    """Two axes, and what comparisons give over a grid of their lengths."""

    def __init__(
        self, layout: Layout, first: str, second: str, beside: Callable[[Layout, str], tuple[int, ...]]
    ) -> None:
        self._axes = first, second
        self._others = beside(layout, first)[0], beside(layout, second)[0]
        self._here = layout.lengths[first], layout.lengths[second]
        few, all_ = ([lengths(layout, axis) for axis in self._axes] for lengths in (self._lengths, self._all))
        self._grids = [np.meshgrid(*pair, indexing="ij") for pair in ((few[0], all_[1]), (all_[0], few[1]))]

    def _lengths(self, layout: Layout, axis: str) -> list[int]:
        """Return lengths to look at: small ones, those beside the traced ones of both axes, and ever longer ones."""
        near = {here + step for here in self._here for step in (-1, 0, 1)} | {layout.lengths[axis] // 2}
        if axis in PICTURE:
            sizes = {*near, 2 * layout.lengths[axis], *self._others}
            return sorted(size for size in sizes if size >= min(self._here) // 2)
        longest = self._longest(layout, axis)
        ladder = {round(_SMALL * 1.2**step) for step in range(26)}
        return sorted(n for n in {*range(1, _SMALL), *near, *ladder} if 1 <= n <= longest)

    def _all(self, layout: Layout, axis: str) -> list[int]:
        """Return every length to look at, but of a picture."""
        return self._lengths(layout, axis) if axis in PICTURE else list(range(1, self._longest(layout, axis) + 1))

    def _longest(self, layout: Layout, axis: str) -> int:
        return max(min(layout.longest(axis), LONGEST), layout.lengths[axis])

    def turns(self, comparisons_at: ComparisonsAt) -> list[dict[str, int]]:
        """Return the nearest pairs of lengths at which some comparison turns out otherwise by both."""
        (first, second), (here, there), (a, b) = self._axes, self._here, self._others
        if a == here or b == there:
            return []
        base, moved, other = comparisons_at({first: here}), comparisons_at({first: a}), comparisons_at({second: b})
        sites = [
            site
            for site in base.keys() & moved.keys() & other.keys()
            if base[site] != moved[site] and base[site] != other[site]
        ]
        if not sites:
            return []
        both = comparisons_at({first: a, second: b})
        runs = base, moved, other, both
        # The same comparison stands in every layer.
        distinct = {(site[2], tuple(run[site] for run in runs)) for site in sites if site in both}
        found = {pair for name, sides in distinct for grid in self._grids for pair in self._of(name, sides, grid)}
        distance = {(x, y): abs(np.log(x / here)) + abs(np.log(y / there)) for x, y in found}
        nearest = sorted(found, key=lambda pair: (distance[pair], pair))[:MOST_PAIRS]
        return [{first: x, second: y} for x, y in nearest]

    def _of(self, name: str, sides: Sequence[Sides], grid: Grid) -> Iterator[tuple[int, int]]:
        """Yield for one comparison the nearest pair with longer and with shorter lengths of each axis.

        Args:
            sides: both sides in the four runs.
        """
        x, y = grid
        result = results_at(name, list(zip(*sides, strict=True)), lambda values: self._over(values, grid))
        here, there = self._here
        row, column = int(np.argmax(x[:, 0] == here)), int(np.argmax(y[0] == there))
        usual = result[row, column]
        turned = (result != usual) & (result[:, column] == usual)[:, None] & (result[row] == usual)[None]
        if not turned.any():
            return
        distance = np.abs(np.log(x / here)) + np.abs(np.log(y / there))
        for longer, wider in product((True, False), repeat=2):
            quadrant = turned & ((x > here) == longer) & ((y > there) == wider)
            if quadrant.any():
                place = np.unravel_index(np.where(quadrant, distance, np.inf).argmin(), x.shape)
                yield int(x[place]), int(y[place])

    def _over(self, values: Sequence[float], grid: Grid) -> NDArray:
        """Return a size over the grid, from its values in the four runs: it follows each length in a line."""
        base, moved, other, both = values
        (here, there), (a, b), (x, y) = self._here, self._others, grid
        x, y = (x - here) / (a - here), (y - there) / (b - there)
        return np.asarray(base + (moved - base) * x + (other - base) * y + (both - moved - other + base) * x * y)
