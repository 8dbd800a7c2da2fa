"""Runs over many items in windows, so that memory holds the inputs of one window and the outputs that are kept.

A window has many batches, within which texts of similar length meet; a sequence of texts is sorted as a whole first, by
the number of characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from optimum_core.models.data.texts import Item
from optimum_core.runtime.call_outputs import Answer
from optimum_core.runtime.items import is_pair

#: Items in one window, at least, and batches.
_ITEMS, _BATCHES = 2048, 32


class Maps(Protocol):
    """Runner of a model over many items, as `Mapper` is."""

    def map(self, items: Sequence[Item], batch_size: int, advance: Callable[[int], None]) -> Answer:
        """Run all items, and return every output by name."""
        ...


Prepare = Callable[[list[Any]], Sequence[Item]]


def streamed(
    mapper: Maps,
    given: Iterable[Any],
    prepare: Prepare,
    batch_size: int,
    advance: Callable[[int], None],
    window: int | None = None,
) -> Answer:
    """Run a model over texts or other items, and return its outputs in the order of the items.

    Args:
        given: a sequence, or an iterator that is read window by window.
        prepare: makes the inputs of a window's items.
        advance: called with the number of items completed.
        window: number of items whose inputs are in memory at once; None: as suits texts.
    """
    window = window or max(_ITEMS, _BATCHES * batch_size)
    if not isinstance(given, Sequence):
        return _joined([mapper.map(prepare(window), batch_size, advance) for window in _windows(given, window)], mapper)
    order = sorted(range(len(given)), key=lambda index: -_size(given[index]))
    found: dict[str, Any] = {}
    for places in _windows(iter(order), window):
        answer = mapper.map(prepare([given[index] for index in places]), batch_size, advance)
        for name, values in answer.items():
            _place(found, name, values, places, len(given))
    return Answer(found) if found else mapper.map([], batch_size, advance)


def _windows(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def _size(item: Any) -> int:
    """Return the number of characters of a text or a pair of texts; 0 for any other item."""
    if isinstance(item, str):
        return len(item)
    return sum(map(len, item)) if is_pair(item) else 0


def _place(found: dict[str, Any], name: str, values: Any, places: list[int], total: int) -> None:
    if isinstance(values, list):
        rows = found.setdefault(name, [None] * total)
        for index, value in zip(places, values, strict=True):
            rows[index] = value
        return
    if name not in found:
        found[name] = np.empty((total, *values.shape[1:]), values.dtype)
    found[name][places] = values


def _joined(answers: list[Answer], mapper: Maps) -> Answer:
    if not answers:
        return mapper.map([], 1, lambda done: None)
    return Answer({name: _concatenated([answer[name] for answer in answers]) for name in answers[0]})


def _concatenated(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [row for part in parts for row in part]
    return np.concatenate(parts)
