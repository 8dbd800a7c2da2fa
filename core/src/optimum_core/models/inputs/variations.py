"""Variations of the user's sample call: more or fewer rows and positions, and other values of the same kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.types.arrays import NDArray


@dataclass(frozen=True, kw_only=True)
class Around:
    """One variation of the user's call.

    Attributes:
        lengths: those of named axes; others as in the layout.
        given: the user's arrays by input name.
        fresh: whether rows change places and values change.
    """

    layout: Layout
    lengths: Mapping[str, int]
    given: Mapping[str, NDArray]
    fresh: bool
    rng: np.random.Generator
    _chosen: dict[tuple[int | str, int, int], NDArray] = field(default_factory=dict)

    def arrays(self, masks: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the arrays of the call.

        Args:
            masks: by name of a mask, the positions that may be one: the others are padding in a fresh call.
        """
        arrays = {item.name: self._resized(item) for item in self.layout.inputs}
        if not self.fresh:
            return arrays
        changing = [item for item in self.layout.inputs if item.name not in self.layout.steady]
        padded: dict[tuple[int | str, ...], NDArray] = {}
        for item in changing:
            if item.kind == "mask":
                before = arrays[item.name]
                keep = self._unpadded(masks[item.name], self._columns(self.layout.placeholders, arrays, before))
                arrays[item.name] = np.where(keep, before, 0).astype(item.dtype)
                padded[item.axes] = (before != 0) & ~keep
        fixed = {
            item.name: self._columns(self.layout.placeholders, arrays, arrays[item.name])
            for item in changing
            if item.kind != "mask"
        }
        for item in changing:
            if item.kind != "mask":
                array = self._other_values(item, arrays[item.name], fixed[item.name])
                if item.kind in ("ids", "types") and item.axes in padded:
                    array = np.where(padded[item.axes], self._padding if item.kind == "ids" else 0, array)
                arrays[item.name] = array.astype(item.dtype)
        return arrays

    def _resized(self, item: InputLayout) -> NDArray:
        """Return the user's values with every axis resized to the case's length."""
        array = self.given[item.name]
        for index, length in enumerate(self.layout.shape(item, self.lengths)):
            places = self._places(item.axes[index], array.shape[index], length)
            array = np.take(array, places, axis=index)
        return (self._nearer(array) if item.name in self.layout.places else array).astype(item.dtype)

    def _nearer(self, array: NDArray) -> NDArray:
        """Return places in axes that are shorter than the user's, brought nearer to zero in proportion: those in a
        part of an axis, or in several that were joined, are then in range as well."""
        lengths = {**self.layout.lengths, **self.lengths}
        for axis, stated in self.layout.stated.items():
            if axis in self.layout.axes and lengths[axis] < stated:
                array = np.trunc(array * (lengths[axis] / stated))
        return array

    def _places(self, axis: int | str, size: int, length: int) -> NDArray:
        """Return the positions of the given call to use along one axis: the same in every input that has the axis."""
        key = (axis, size, length)
        if key not in self._chosen:
            self._chosen[key] = self._picked(axis, size, length)
        return self._chosen[key]

    def _picked(self, axis: int | str, size: int, length: int) -> NDArray:
        if axis in self._rows and size:
            rows = np.arange(length) % size
            return self.rng.permutation(rows) if self.fresh and not self.layout.ordered else rows
        if length == size or not size:
            return np.arange(size)
        first, last = self._masked_ends(size)
        inside = first or last  # positions added after the padding would leave a gap in the mask
        special = {*self.layout.special.values()} - {self._padding}
        for ids in ({*self.layout.placeholders, *special}, self.layout.placeholders):
            kept = self._columns(ids, self.given, np.empty(size))
            if len(kept) <= length:
                return stretched(size, length, kept, inside=inside, from_the_front=first)
        return np.arange(length)

    def _masked_ends(self, size: int) -> tuple[bool, bool]:
        """Return whether any row of a mask of this length is padded at its start, and whether at its end."""
        masks = [self.given[item.name] for item in self.layout.inputs if item.kind == "mask"]
        masks = [mask for mask in masks if mask.shape[-1:] == (size,)]
        return (any(bool((mask[..., 0] == 0).any()) for mask in masks),
                any(bool((mask[..., -1] == 0).any()) for mask in masks))  # fmt: skip

    @cached_property
    def _rows(self) -> frozenset[int | str]:
        """The named axes that occur only as first axes of inputs."""
        first = {item.axes[0] for item in self.layout.inputs if item.axes and isinstance(item.axes[0], str)}
        return frozenset(first - {axis for item in self.layout.inputs for axis in item.axes[1:]})

    @property
    def _padding(self) -> int:
        return self.layout.special.get("pad_token_id", 0)

    def _columns(self, ids: Collection[int], arrays: Mapping[str, NDArray], alike: NDArray) -> NDArray:
        """Return columns in which any row has one of these ids, over id inputs as long as this array's last axis."""
        size = alike.shape[-1] if alike.ndim else 0
        found = np.zeros(size, dtype=bool)
        for item in self.layout.inputs:
            array = arrays[item.name]
            if item.kind == "ids" and array.ndim and array.shape[-1] == size:
                found |= np.isin(array, list(ids)).reshape(-1, size).any(axis=0)
        return np.flatnonzero(found)

    def _unpadded(self, valid: NDArray, fixed: NDArray) -> NDArray:
        """Return positions that stay unpadded: right padding begins after the last placeholder, left padding ends
        before the first."""
        if not len(fixed):
            return valid
        columns = np.arange(valid.shape[-1])
        return np.asarray(valid | np.where(valid[..., :1], columns <= fixed[-1], columns >= fixed[0]))

    def _other_values(self, item: InputLayout, array: NDArray, fixed: NDArray) -> NDArray:
        if not array.size:
            return array
        if item.kind == "ids":
            return self._other_ids(item.name, array)
        if item.name in self.layout.columns:
            return self._between(item, array)
        if array.dtype.kind == "f":
            switch = array.ndim > 0 and array.shape[-1] > 1 and is_switch(array) and self.rng.random() < 0.5
            return self._switched(item, array) if switch else self._jittered(array)
        if array.min() == array.max():
            given = self.given[item.name]
            if item.kind != "types" and array.dtype != bool and given.min() != given.max():
                return array  # one of the user's values, of the row that was picked: the model may take no other
            other = self._other_constants(item, array)
            if not array.ndim:
                return other
            free = np.ones(array.shape[-1:], dtype=bool)
            free[fixed] = False
            return np.where(free, other, array)
        last = 2 if item.kind == "boxes" else array.ndim
        for index in range(max(0, min(1, array.ndim - 1)), last):
            array = self._shuffled(array, index, fixed)
        return array

    def _other_ids(self, name: str, array: NDArray) -> NDArray:
        """Return other ordinary ids; special ones and placeholders stay where they are."""
        placeholders, special = [*self.layout.placeholders], [*self.layout.special.values()]
        vocabulary = self.layout.vocabulary.get(name, int(array.max()) + 1)
        ordinary = np.setdiff1d(np.arange(min(vocabulary, 32768)), placeholders + special)
        stay = np.isin(array, placeholders + special)
        stay = np.isin(array, placeholders) if stay.all() else stay
        return np.where(stay, array, self.rng.choice(ordinary, size=array.shape)) if len(ordinary) else array

    def _between(self, item: InputLayout, array: NDArray) -> NDArray:
        """Return numbers like the samples' at each place along the last axis: of floats, those of a row; whole numbers
        between the least and the greatest, from zero where all are one above it."""
        given = self.given[item.name]
        places = self._places(item.axes[-1], given.shape[-1], array.shape[-1])
        rows = given.reshape(-1, given.shape[-1])[:, places]
        if array.dtype.kind == "f":
            chosen = self.rng.integers(0, len(rows), size=array.shape)
            return np.asarray(rows[chosen, np.arange(len(places))])
        low, high = rows.min(axis=0), rows.max(axis=0)
        low = np.where((low == high) & (high > 0), 0, low)
        return np.asarray(self.rng.integers(low, high, size=array.shape, endpoint=True))

    def _jittered(self, array: NDArray) -> NDArray:
        """Return values with noise of half the given ones' standard deviation, none negative if none was; NaN and
        infinity stay."""
        usual = array[np.isfinite(array)]
        scale = float(usual.std()) if usual.size else 0.0
        moved = array + 0.5 * (scale or 1.0) * self.rng.standard_normal(array.shape)
        return np.asarray(np.abs(moved) if usual.min(initial=0) >= 0 and not np.isneginf(array).any() else moved)

    def _switched(self, item: InputLayout, array: NDArray) -> NDArray:
        """Return switches of which some are turned, at the ends of rows as padding is, or anywhere. No first one is:
        a row without any may have no answer. Where a row has but one, it is a setting, and turned as well."""
        columns = np.arange(array.shape[-1])
        ends = self.rng.integers(1, array.shape[-1] + 1, size=array.shape[:-1])
        turned = columns >= ends[..., None]
        if self.rng.random() < 0.5:
            turned = (self.rng.random(array.shape) < 0.3) & (columns > 0)
        if item.axes[-1] == 1:
            turned = self.rng.random(array.shape) < 0.5
        return np.asarray(np.where(turned, 1 - array.astype(np.int8), array), dtype=array.dtype)

    def _other_constants(self, item: InputLayout, array: NDArray) -> NDArray:
        """Return other values for a constant input: switches turned, or integers, none greater; for token types, the
        second half is one."""
        if array.dtype == bool:
            return self._switched(item, array) if array.ndim else np.asarray(self.rng.random() < 0.5)
        if item.kind == "types":
            second = np.arange(array.shape[-1]) >= array.shape[-1] // 2
            return np.broadcast_to(np.minimum(second, self.layout.vocabulary.get(item.name, 2) - 1), array.shape)
        greatest = int(array.max())
        return np.asarray(self.rng.integers(0, greatest + 1, size=array.shape)) if greatest > 0 else array

    def _shuffled(self, array: NDArray, index: int, fixed: NDArray) -> NDArray:
        """Return integers in another order along one axis; placeholders' positions in the last axis stay."""
        columns = np.arange(array.shape[index])
        free = np.setdiff1d(columns, fixed) if index == array.ndim - 1 else columns.copy()
        columns[free] = self.rng.permutation(free)
        return np.take(array, columns, axis=index)


def is_switch(array: NDArray) -> bool:
    """Whether floats are zeros and ones, with a one among them: a mask is no number, and noise would never be zero."""
    return array.dtype.kind == "f" and bool(np.isin(array, (0.0, 1.0)).all() and array.any())


def stretched(size: int, length: int, kept: NDArray, *, inside: bool = False, from_the_front: bool = False) -> NDArray:
    """Return `length` of `size` positions: all but the `kept` ones are repeated to lengthen, or cut at the end.

    Args:
        inside: repeated positions stand beside their originals, not at the end.
        from_the_front: positions are cut at the start.

    >>> stretched(4, 6, np.array([0])).tolist()
    [0, 1, 2, 3, 1, 2]
    >>> stretched(4, 3, np.array([0, 3])).tolist()
    [0, 1, 3]
    """
    columns = np.arange(size)
    ordinary = np.setdiff1d(columns, kept)
    if length >= size:
        again = np.resize(ordinary if len(ordinary) else columns, length - size)
        longer = np.concatenate([columns, again])
        return np.sort(longer) if inside else longer
    room = length - len(kept)
    left = ordinary[len(ordinary) - room :] if from_the_front else ordinary[:room]
    return np.sort(np.concatenate([kept, left]))
