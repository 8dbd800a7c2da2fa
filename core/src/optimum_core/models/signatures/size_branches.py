"""Lengths at which the model's own code decides otherwise, found in the comparisons that it makes between sizes.

An exporter keeps the branch that the traced lengths take. Two runs of different lengths show how a size follows the
axis, and so at which length the comparison turns out otherwise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.signatures.size_records import Compared
from optimum_core.models.signatures.switches import LONGEST

#: Most lengths of one axis that are returned: those nearest to the traced one.
MOST = 3

#: Returns the comparisons of a run at some lengths, other axes as traced.
Runs = Callable[[Mapping[str, int]], Compared]


def size_switches(
    compared: Runs, layout: Layout, beside: Callable[[Layout, str], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return by named axis the lengths L for which a comparison of sizes has one result at L and another at L + 1.

    Args:
        compared: returns the comparisons of a run at some lengths.
        beside: other lengths to try an axis at.
    """
    return {axis: turns for axis in layout.axes if (turns := _nearest(compared, axis, layout, beside(layout, axis)))}


def _nearest(compared: Runs, axis: str, layout: Layout, beside: tuple[int, ...]) -> tuple[int, ...]:
    here = layout.lengths[axis]
    base = compared({axis: here})
    other = next((length for length in beside if length != here), here)
    turns = set(_turns(base, compared({axis: other}), here, other)) if other != here else set()
    for turn in _by_distance(turns, here):  # beyond it other code runs, with comparisons of its own
        side, away = (turn, -2) if turn < here else (turn + 1, 2)
        there = {site: sides for site, sides in compared({axis: side}).items() if site not in base}
        if there and side + away > 0:
            turns |= set(_turns(there, compared({axis: side + away}), side, side + away))
    return tuple(sorted(_by_distance(turns, here)))


def _by_distance(turns: set[int], here: int) -> list[int]:
    return sorted(turns, key=lambda turn: abs(turn - here))[:MOST]


def _turns(base: Compared, other: Compared, here: int, there: int) -> Iterator[int]:
    """Yield the lengths L for which a comparison has one result at L and another at L + 1: for each comparison the
    nearest on either side of `here`."""
    lengths = np.arange(1, LONGEST + 1)
    for site in base.keys() & other.keys():
        sides = [_line(a, b, here, there, lengths) for a, b in zip(base[site], other[site], strict=True)]
        if all(np.ptp(side) == 0 for side in sides):
            continue
        results = results_of(site[2], *sides)
        turns = lengths[:-1][results[1:] != results[:-1]]
        yield from (int(turn) for turn in (*turns[turns < here][-1:], *turns[turns >= here][:1]))


def _line(a: int, b: int, here: int, there: int, lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a value at every length, that is `a` at the length `here`, `b` at `there`, and on a line between."""
    return np.rint(a + (b - a) / (there - here) * (lengths - here)).astype(np.int64)


def results_of(name: str, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the results of one comparison for many values of its sides."""
    if name == "__mod__":
        left, right = np.mod(left, np.where(right == 0, 1, right)), np.zeros_like(right)
        name = "__eq__"
    result: np.ndarray[Any, Any] = getattr(operator, name)(left, right)
    return result
