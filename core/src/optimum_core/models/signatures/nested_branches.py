"""Lengths of several axes at which the model's own code decides otherwise, by a comparison that it makes only where
another one has an unusual result.

`if x.shape == (3, 33, 8)` compares the second size only where the first is 3, and so does a condition within a branch.
Runs beyond each length at which a comparison turns show which others are made there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.signatures.size_branches import beyond, nearest_turns, turns_along
from optimum_core.models.signatures.size_records import ComparisonsAt

#: Most lengths that are returned.
MOST_BRANCHES = 6

AxisLengths = Mapping[str, int]


def nested_switches(
    comparisons_at: ComparisonsAt,
    layout: Layout,
    beside: Callable[[Layout, str], tuple[int, ...]],
    turns: Mapping[str, tuple[int, ...]],
) -> tuple[AxisLengths, ...]:
    """Return lengths of two axes and more, each the first beyond where a comparison turns that the model does not make
    at the traced lengths; at most `MOST_BRANCHES`.

    Args:
        comparisons_at: returns the comparisons of a run at some lengths.
        beside: other lengths to try an axis at.
        turns: by axis, lengths L at which a comparison has another result than at L + 1, other axes as traced.
    """
    search = _NestedSearch(comparisons_at, layout, beside)
    found = [lengths for axis in turns for turn in turns[axis] for lengths in search.made_beyond({}, axis, turn)]
    return tuple({tuple(sorted(lengths.items())): lengths for lengths in found}.values())[:MOST_BRANCHES]


class _NestedSearch:
    """The search for one model, each of whose axes is moved at most once."""

    def __init__(
        self, comparisons_at: ComparisonsAt, layout: Layout, beside: Callable[[Layout, str], tuple[int, ...]]
    ) -> None:
        self._comparisons_at, self._layout = comparisons_at, layout
        self._beside = {axis: beside(layout, axis) for axis in layout.axes}

    def made_beyond(self, lengths: AxisLengths, axis: str, turn: int) -> Iterator[AxisLengths]:
        """Yield the lengths at which comparisons turn that are made only beyond a turn of one axis.

        Args:
            lengths: those of other axes at which it turns there.
        """
        here = self._layout.lengths[axis]
        there = {**lengths, axis: beyond(turn, here)}
        if self._comparisons_at(there).keys() == self._comparisons_at(lengths or {axis: here}).keys():
            return
        for other in self._layout.axes:
            if other not in there:
                yield from self._along(there, other)

    def _along(self, there: AxisLengths, axis: str) -> Iterator[AxisLengths]:
        """Yield the lengths at which comparisons turn along one axis, others being `there`, that do not turn where
        these are as traced."""
        here, beside = self._layout.lengths[axis], self._beside[axis]
        found = turns_along(lambda length: self._comparisons_at({**there, axis: length}), here, beside)
        alone = turns_along(lambda length: self._comparisons_at({axis: length}), here, beside)
        for turn in nearest_turns(found.keys() - alone.keys(), here):
            yield {**there, axis: beyond(turn, here)}
            yield from self.made_beyond(there, axis, turn)
