"""Values at edges: floats at zero, at halves and equal to one another; all of one sign; switches all on or all off;
masks that are on or off at the beginning of each row;
rows that a mask of -inf leaves nothing of; whole numbers that end elsewhere than the samples'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.samples import Case
from optimum_core.models.inputs.special_forms import ANY_VALUES, SERIES
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays, NDArray

#: The step between values, for inputs of ordinary size.
_HALF = 0.5
#: Values that are there in any case, in steps, those first at which ways to round part.
_NEAR = np.array([1, -1, 0, 3, -3, 0, 5, -5, 2, -2, 4, -4])
#: Axes that a mask of rows has, and the places that a row needs to be on and off in.
_ROWS = 2
#: Share of values that are made zero, and then of those that are made equal to their neighbours.
_ZERO, _EQUAL = 0.2, 0.25


def floats_of_any_size(module: Any, signature: ModelSignature) -> list[str]:
    """Return the inputs of floats in whose values a model reads no more than numbers: those of a plain module that the
    eager model takes other values of, and time series."""
    inputs = [item for item in signature.layout.inputs if item.name not in signature.layout.steady]
    if is_plain(module):
        return [item.name for item in inputs if item.kind == "given" and item.dtype.startswith("float")]
    return [item.name for item in inputs if item.name in SERIES]


def halves(module: Any, signature: ModelSignature, case: Case) -> Arrays | None:
    """Return the call of a case with floats in halves, some of them equal, and a last row of zeros; None: there are no
    floats."""
    rng = np.random.default_rng(case.seed)
    return _changed(module, signature, case, lambda array: _in_halves(array, rng))


def of_one_sign(module: Any, signature: ModelSignature, case: Case, sign: int) -> Arrays | None:
    """Return the call of a case with all floats above zero (`sign` 1) or below (-1), where the samples have both; None:
    no input has both."""

    def change(array: NDArray) -> NDArray | None:
        both = bool((array < 0).any() and (array > 0).any() and np.isfinite(array).all())
        return np.asarray(sign * np.abs(array)) if both else None

    return _changed(module, signature, case, change)


def all_alike(module: Any, signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls in which one switch is the same at all places, or in the last row alone, with the words for it: a
    mask may leave nothing. In a library's model, only flags of whole rows: a mask that leaves nothing has cases of its
    own there."""
    inputs, plain = signature.draw(case), is_plain(module)
    for item in signature.layout.inputs:
        array = inputs[item.name]
        if item.kind not in ANY_VALUES or item.name in signature.layout.steady or not _is_switch(array):
            continue
        if not plain and not _is_one_per_row(signature.given.get(item.name, array)):
            continue
        for value in (0, 1):
            state = ("off", "on")[value]
            yield f"{item.name} all {state}", {**inputs, item.name: np.full_like(array, value)}
            if array.ndim > 1 and len(array) > 1:
                row = array.copy()
                row[-1] = value
                yield f"{item.name} all {state} in the last row", {**inputs, item.name: row}


def in_runs(module: Any, signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls in which one switch of a plain module is on at the beginning of each row and off behind it, or the
    other way round, as masks of padding are, with the words for it. No two neighbouring rows end at the same place, and
    in the second pair of calls no row goes to the end: torch then takes a path of its own for nested tensors."""
    inputs, plain = signature.draw(case), is_plain(module)
    for item in signature.layout.inputs if plain else ():
        array = inputs[item.name]
        if item.kind not in ANY_VALUES or item.name in signature.layout.steady or not _is_switch(array):
            continue
        if array.ndim < _ROWS or array.shape[-1] < _ROWS:
            continue
        for words, longest in (("", array.shape[-1]), (", none to the end", array.shape[-1] - 1)):
            ends = longest - np.arange(np.prod(array.shape[:-1], dtype=int)) % longest
            begins = np.arange(array.shape[-1]) < ends.reshape(*array.shape[:-1], 1)
            yield f"{item.name} on at the beginning of rows{words}", {**inputs, item.name: begins.astype(array.dtype)}
            yield (
                f"{item.name} off at the beginning of rows{words}",
                {**inputs, item.name: (~begins).astype(array.dtype)},
            )


def other_numbers(module: Any, signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls in which one input's whole numbers end elsewhere than in the samples, with the words for it.

    The greatest of some lengths, or of the numbers of some segments, may decide on the shape of an output, and other
    cases hold the samples' own numbers in another order.
    """
    inputs, plain = signature.draw(case), is_plain(module)
    for item, spec in zip(signature.layout.inputs, signature.inputs, strict=True):
        array, spec = inputs[item.name], spec.at({**signature.layout.lengths, **case.lengths})
        if item.kind not in ANY_VALUES or item.name in signature.layout.steady or array.dtype.kind not in "iu":
            continue
        if plain and spec.least is not None and array.ndim > 1:  # as padding: one such number alone changes little
            half = np.where(np.arange(array.shape[-1]) < array.shape[-1] // 2, array, spec.least)
            yield f"{item.name} at its bound in half of each row", {**inputs, item.name: half.astype(array.dtype)}
        for words, other in _ending_elsewhere(array, plain=plain) if array.size else ():
            if not np.array_equal(other, array) and _within(spec, other):
                yield f"{item.name} {words}", {**inputs, item.name: other}


def _within(spec: TensorSpec, array: NDArray) -> bool:
    least = int(array.min()) if spec.least is None else spec.least
    greatest = int(array.max()) if spec.greatest is None else spec.greatest
    return least <= int(array.min()) and int(array.max()) <= greatest


def _ending_elsewhere(array: NDArray, *, plain: bool) -> Iterator[tuple[str, NDArray]]:
    """Yield other whole numbers. Those of zeros and ones may be a mask: `all_alike` has these, and in a library's model
    they are nothing else."""
    least, greatest = int(array.min()), int(array.max())
    if least < 0 or greatest > 1:
        yield "all at the least", np.full_like(array, least)
        yield "below the greatest", np.minimum(array, greatest - 1).astype(array.dtype)
    elif not plain:
        return
    if greatest < np.iinfo(array.dtype).max:
        yield "one beyond the greatest", np.where(array == greatest, greatest + 1, array).astype(array.dtype)


def rows_without(signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls in which one input that has -inf in the samples has nothing else in its last row, with the words for
    it."""
    inputs = signature.draw(case)
    for item in signature.layout.inputs:
        array, given = inputs[item.name], signature.given.get(item.name)
        if given is None or item.name in signature.layout.steady or not array.ndim or not array.size:
            continue
        if np.isneginf(given).any() and not np.isneginf(given).all(axis=-1).any():
            row = array.copy()
            row[(-1,) * (row.ndim - 1)] = -np.inf
            yield f"-inf in all of a row of {item.name}", {**inputs, item.name: row}


def _changed(
    module: Any, signature: ModelSignature, case: Case, change: Callable[[NDArray], NDArray | None]
) -> Arrays | None:
    inputs = signature.draw(case)
    names = [name for name in floats_of_any_size(module, signature) if inputs[name].size]
    made = {name: change(inputs[name]) for name in names if not _is_switch(inputs[name])}
    found = {name: np.asarray(array, dtype=inputs[name].dtype) for name, array in made.items() if array is not None}
    return {**inputs, **found} if found else None


def _in_halves(array: NDArray, rng: np.random.Generator) -> NDArray | None:
    """Return values on a grid of halves, finer where all are below one. Zeros have no sign, which few runtimes keep."""
    if not np.isfinite(array).all():
        return None
    greatest = float(np.abs(array).max())
    step = _HALF if greatest >= 2 * _HALF or not greatest else 2.0 ** (np.floor(np.log2(greatest)) - 1)
    low, high = min(float(array.min()), 0.0) // -step * -step, max(float(array.max()) // step * step, 0.0)
    made = np.clip(np.round(array / step) * step, low, high)
    made = np.where(rng.random(made.shape) < _ZERO, 0.0, made)
    if made.ndim:
        made = np.where(rng.random(made.shape) < _EQUAL, np.roll(made, 1, axis=-1), made)
    rows = made[:-1] if made.ndim > 1 and len(made) > 1 else made
    near = [value for value in step * _NEAR if low <= value <= high]
    places = rng.permutation(rows.size)[: max(1, rows.size // 2)]
    rows.flat[places[: len(near)]] = near[: len(places)]
    if rows is not made:
        made[-1] = 0
    return np.asarray(made + 0.0)


def _is_one_per_row(array: NDArray) -> bool:
    return array.ndim > 0 and array.size == len(array)


def _is_switch(array: NDArray) -> bool:
    """Whether an input holds zeros and ones alone, as masks do."""
    return bool(array.size) and bool(array.dtype == bool or (np.isin(array, (0, 1)).all() and array.any()))
