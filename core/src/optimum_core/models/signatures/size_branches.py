"""Lengths at which the model's own code decides otherwise, found in the comparisons that it makes between sizes.

An exporter keeps the branch that the traced lengths take. While the eager model runs, sizes of tensors are integers
that record what they are compared with; two runs of different lengths show how a size follows the axis, and so at which
length the comparison turns out otherwise.
"""

from __future__ import annotations

import logging
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.calls import ask
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import PICTURE
from optimum_core.models.signatures.switches import LONGEST

log = logging.getLogger(__name__)

#: Most lengths of one axis that are returned: those nearest to the traced one.
MOST = 3

#: A comparison: file, line, operator, and how many of these came before it in the same run.
Site = tuple[str, int, str, int]
#: The two sides of each comparison.
Compared = dict[Site, tuple[int, int]]

_COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__mod__")
#: Functions that return a size of a tensor, or a product of sizes.
_SIZES = (torch.Tensor.size, torch.Tensor.numel, torch.Tensor.stride)
_KEEPING = ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "rfloordiv", "neg")


class Shape(tuple[int, ...]):
    """A tensor's shape, as `torch.Size`, which would turn its items into plain integers."""

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of values."""
        return int(np.prod(self, dtype=int))


class _Recorder(TorchFunctionMode):
    """While it is active, sizes of tensors record the comparisons that Python code makes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: Compared = {}
        self._seen: Counter[tuple[str, int, str]] = Counter()
        self._size = _size_class(self._record)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if type(found) is torch.Size:
            return Shape(map(self._size, found))
        return self._size(found) if type(found) is int and func in _SIZES else found

    def _record(self, name: str, left: int, right: int) -> None:
        frame = sys._getframe(2)
        place = (frame.f_code.co_filename, frame.f_lineno, name)
        self.compared[(*place, self._seen[place])] = (left, right)
        self._seen[place] += 1


def _size_class(record: Callable[[str, int, int], None]) -> type[int]:
    """Return a class of integers that record comparisons, as do the results of their arithmetic."""

    def comparing(name: str) -> Callable[[Any, Any], Any]:
        plain = getattr(int, name)

        def compare(self: Any, other: Any) -> Any:
            if isinstance(other, int):
                record(name, int(self), int(other))
            return plain(self, other)

        return compare

    def keeping(name: str) -> Callable[..., Any]:
        plain = getattr(int, name)

        def calculate(self: Any, *others: Any) -> Any:
            found = plain(self, *others)
            return made(found) if type(found) is int else found

        return calculate

    def is_set(self: Any) -> bool:
        record("__ne__", int(self), 0)
        return int(self) != 0

    kept = {f"__{name}__": keeping(f"__{name}__") for name in _KEEPING}
    compared = {name: comparing(name) for name in _COMPARISONS}
    made = type("Size", (int,), {**kept, **compared, "__bool__": is_set, "__hash__": int.__hash__})
    return made


def size_switches(
    module: Any, layout: Layout, arrays: Mapping[str, Any], beside: Callable[[Layout, str], tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return by named axis the lengths L for which a comparison of sizes has one result at L and another at L + 1.

    Args:
        beside: other lengths to try an axis at.
    """

    def compared(axis: str, length: int) -> Compared:
        found = _compared(module, layout, arrays, {axis: length})
        if axis not in PICTURE:
            return found
        # Sizes that no patch and no window divides are compared in any case.
        return {site: sides for site, sides in found.items() if site[2] != "__mod__"}

    return {axis: turns for axis in layout.axes if (turns := _nearest(compared, axis, layout, beside(layout, axis)))}


def _nearest(
    compared: Callable[[str, int], Compared], axis: str, layout: Layout, beside: tuple[int, ...]
) -> tuple[int, ...]:
    here = layout.lengths[axis]
    base = compared(axis, here)
    other = next((length for length in beside if length != here), here)
    turns = set(_turns(base, compared(axis, other), here, other)) if other != here else set()
    for turn in _by_distance(turns, here):  # beyond it other code runs, with comparisons of its own
        side, away = (turn, -2) if turn < here else (turn + 1, 2)
        there = {site: sides for site, sides in compared(axis, side).items() if site not in base}
        if there and side + away > 0:
            turns |= set(_turns(there, compared(axis, side + away), side, side + away))
    return tuple(sorted(_by_distance(turns, here)))


def _by_distance(turns: set[int], here: int) -> list[int]:
    return sorted(turns, key=lambda turn: abs(turn - here))[:MOST]


def _compared(module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int]) -> Compared:
    """Return the comparisons of one run; those until it failed if the eager model refuses the lengths."""
    recorder = _Recorder()
    try:
        inputs = draw(layout, Case(name="sizes", lengths=lengths, padding="none"), arrays)
        with recorder:
            ask(module, inputs)
    except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
        log.debug("sizes at %s: %r", dict(lengths), error)
    return recorder.compared


def _turns(base: Compared, other: Compared, here: int, there: int) -> Iterator[int]:
    """Yield the lengths L for which a comparison has one result at L and another at L + 1: for each comparison the
    nearest on either side of `here`."""
    lengths = np.arange(1, LONGEST + 1)
    for site in base.keys() & other.keys():
        sides = [_line(a, b, here, there, lengths) for a, b in zip(base[site], other[site], strict=True)]
        if all(np.ptp(side) == 0 for side in sides):
            continue
        results = _results(site[2], *sides)
        turns = lengths[:-1][results[1:] != results[:-1]]
        yield from (int(turn) for turn in (*turns[turns < here][-1:], *turns[turns >= here][:1]))


def _line(a: int, b: int, here: int, there: int, lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a value at every length, that is `a` at the length `here`, `b` at `there`, and on a line between."""
    return np.rint(a + (b - a) / (there - here) * (lengths - here)).astype(np.int64)


def _results(name: str, left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if name == "__mod__":
        left, right = np.mod(left, np.where(right == 0, 1, right)), np.zeros_like(right)
        name = "__eq__"
    result: np.ndarray[Any, Any] = getattr(operator, name)(left, right)
    return result
