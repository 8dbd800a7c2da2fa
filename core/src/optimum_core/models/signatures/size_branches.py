"""Lengths at which the model's own code decides otherwise, found in the comparisons that it makes between sizes.

An exporter keeps the branch that the traced lengths take. Two runs of different lengths show how a size follows the
axis, and so at which length the comparison turns out otherwise; runs on both sides of that confirm or correct it.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.signatures.followed_numbers import ROUNDED
from optimum_core.models.signatures.size_records import Comparisons, ComparisonsAt, Sides, Site
from optimum_core.models.signatures.size_terms import Fit, Term, evaluate, rounds_otherwise
from optimum_core.models.signatures.switches import LONGEST
from optimum_core.types.arrays import NDArray

#: Most lengths of one axis that are returned: those nearest to the traced one.
MOST_TURNS = 3
#: Powers of a length that sizes follow: areas and volumes.
_POWERS = (2, 3)
#: Most times that the length at which a comparison turns is corrected.
_CORRECTIONS = 8
#: Seconds after which the lengths of an axis are no longer confirmed, or that many times those of the traced length, if
#: that is more: a model may take far longer at a longer text, as one that makes a sound of it.
_CONFIRMING, _TIMES = 4.0, 12.0


def size_switches(
    comparisons_at: ComparisonsAt, layout: Layout, beside: Callable[[Layout, str], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return by named axis the lengths L for which a comparison of sizes has one result at L and another at L + 1.

    Args:
        comparisons_at: returns the comparisons of a run at some lengths.
        beside: other lengths to try an axis at.
    """
    return {
        axis: turns for axis in layout.axes if (turns := _nearest(comparisons_at, axis, layout, beside(layout, axis)))
    }


def _nearest(comparisons_at: ComparisonsAt, axis: str, layout: Layout, beside: tuple[int, ...]) -> tuple[int, ...]:
    def run(length: int) -> Comparisons:
        return comparisons_at({axis: length})

    here = layout.lengths[axis]
    start = time.process_time()
    base = run(here)
    patience = max(_CONFIRMING, _TIMES * (time.process_time() - start))
    sites = turns_along(run, here, beside)
    start = time.process_time()

    def is_over() -> bool:
        return time.process_time() - start > patience

    turns = {_confirmed(run, sites[turn], here, turn, is_over) for turn in nearest_turns(sites, here)}
    for turn in nearest_turns(turns, here):  # beyond it other code runs, with comparisons of its own
        if is_over():
            break
        side, away = beyond(turn, here), -2 if turn < here else 2
        there = {site: sides for site, sides in run(side).items() if site not in base}
        if there and side + away > 0:
            turns |= dict(_turns_between(there, run(side + away), side, side + away)).keys()
    return tuple(sorted(nearest_turns(turns, here)))


def nearest_turns(turns: Iterable[int], here: int) -> list[int]:
    """Return at most `MOST_TURNS` of these lengths, those nearest to `here` first."""
    return sorted(turns, key=lambda turn: abs(turn - here))[:MOST_TURNS]


def beyond(turn: int, here: int) -> int:
    """Return the length next to where a comparison turns, on the other side than `here`."""
    return turn if turn < here else turn + 1


def turns_along(run: Callable[[int], Comparisons], here: int, beside: tuple[int, ...]) -> dict[int, Site]:
    """Return the lengths L at which a comparison has another result than at L + 1, each with one such comparison.

    Args:
        run: returns the comparisons of a run at a length.
        beside: lengths to compare the run at `here` with, until one makes the same comparisons: at the others a place
            in the code may be reached for another one.
    """
    base, sites = run(here), dict[int, Site]()
    for other in beside:
        if other != here:
            there = run(other)
            sites |= dict(_turns_between(base, there, here, other))
            if there.keys() == base.keys():
                break
    return sites


def _turns_between(base: Comparisons, other: Comparisons, here: int, there: int) -> Iterator[tuple[int, Site]]:
    """Yield the lengths L for which a comparison has one result at L and another at L + 1, with the comparison: for
    each the nearest on either side of `here`."""
    for site in base.keys() & other.keys():
        turns = _turns_on_line(site, base[site], other[site], here, there)
        yield from ((int(turn), site) for turn in (*turns[turns < here][-1:], *turns[turns >= here][:1]))


def _turns_on_line(site: Site, one: Sides, other: Sides, here: int, there: int) -> NDArray:
    """Return all such lengths of one comparison, whose sides are `one` at the length `here`, and `other` at `there`."""
    lengths = np.arange(1, LONGEST + 1)

    def fit(values: Sequence[float]) -> NDArray:
        a, b = values
        return _fitted(lengths, a, b, here=here, there=there)

    results = results_at(site[2], list(zip(one, other, strict=True)), fit)
    turns: NDArray = lengths[:-1][results[1:] != results[:-1]]
    return turns


def _fitted(lengths: NDArray, a: float, b: float, *, here: int, there: int) -> NDArray:
    """Return a size at these lengths that is `a` at the length `here` and `b` at `there`: a multiple of a power of the
    length, if both are, or else on a line."""
    for power in _POWERS if a != b else ():
        if b * here**power == a * there**power:
            return a * (lengths / here) ** power
    return a + (b - a) / (there - here) * (lengths - here)


def _confirmed(run: Callable[[int], Comparisons], site: Site, here: int, turn: int, is_over: Callable[[], bool]) -> int:
    """Return the length at which a comparison turns, by runs on both sides of it; the expected one if they do not tell.

    Sizes that follow an axis in no line, such as squares, are followed by lines between ever nearer lengths.

    Args:
        turn: where it is expected to turn.
        is_over: whether no more runs are to be made.
    """
    usual, guess = _result(site, run(here)[site]), turn
    near, far = here, None  # the farthest length with the usual result, and the nearest with the other one
    for _ in range(_CORRECTIONS):
        if is_over():
            break
        below, above = run(guess).get(site), run(guess + 1).get(site)
        if below is None or above is None:
            break
        if _result(site, below) != _result(site, above):
            return guess
        if _result(site, below) == usual:
            near = beyond(guess, here)
        else:
            far = guess if guess >= here else guess + 1
        moves = _values(below) != _values(above)
        one, other = (near, far) if far is not None else (guess, guess + 1) if moves else (here, near)
        if one == other:
            break
        turns = _turns_on_line(site, run(one)[site], run(other)[site], one, other)
        further = turns[turns >= near][:1] if turn >= here else turns[turns < near][-1:]
        if not further.size:
            break
        guess = int(further[0])
    return turn


def _values(sides: Sides) -> tuple[float, ...]:
    return tuple(side.value for side in sides)


def _result(site: Site, sides: Sides) -> bool:
    return bool(results_at(site[2], [(side,) for side in sides], np.asarray)[0])


def results_at(name: str, sides: Sequence[Sequence[Term]], fit: Fit) -> NDArray:
    """Return the results of one comparison at many lengths.

    Args:
        sides: its two sides, each in several runs.
        fit: returns the values of a size at these lengths.
    """
    if name == ROUNDED:
        return rounds_otherwise(sides[0], fit)
    left, right = (evaluate(terms, fit) for terms in sides)
    if name == "__mod__":
        left, right = np.mod(left, np.where(right == 0, 1, right)), np.zeros_like(right)
        name = "__eq__"
    result: NDArray = getattr(operator, name)(left, right)
    return result
