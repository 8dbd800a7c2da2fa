"""Values far from those of the user's samples, for inputs that no table or name bounds: larger, below zero, zero, or at
the ends of their type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.samples import Case
from optimum_core.models.inputs.special_forms import SERIES
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.signatures.value_limits import FAR_INDEX
from optimum_core.types.arrays import Arrays, NDArray

Rng = np.random.Generator

#: Factor of floats, and for wide whole numbers the greatest binary exponent by their bytes.
TIMES = 1e5
_EXPONENTS = {8: 40, 4: 28}
#: Share of the values that change their sign: of two inputs alike, half of the pairs then have different signs.
_TURNED = 0.5
#: The greatest exponent of wide whole numbers, by their bytes. Their least value is left out: divided by -1, it ends
#: the process in torch itself (`div` with `rounding_mode="trunc"`) and in some runtimes.
_ENDS = {8: 63, 4: 31}


def large_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with large values; None: no input may have them.

    Args:
        kind: of the numpy element types that become large, "i" for all whole numbers, or "f".
    """
    return _elsewhere(module, signature, case, kind, _large)


def wide_float_inputs(module: Any, signature: ModelSignature, case: Case) -> Arrays | None:
    """Return the call of a case with floats that only whole numbers of 64 bits hold; None: no input may have them."""
    return _elsewhere(module, signature, case, "f", _wide_floats)


def negative_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with values below zero in inputs that have none; None: no input may have them.

    Args:
        kind: of the numpy element types that change, "i" or "f".
    """
    return _elsewhere(module, signature, case, kind, _negative)


def negative_alone(module: Any, signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls with whole numbers below zero in one input alone, by its name, where several inputs may have them: a
    quotient of two such numbers is above zero again."""
    changed = negative_inputs(module, signature, case, "i")
    inputs = signature.draw(case)
    names = [name for name, array in (changed or {}).items() if array.dtype.kind in "iu" and (array < 0).any()]
    for name in names if len(names) > 1 else ():
        below = np.where(inputs[name] == 0, -1, -np.abs(inputs[name])).astype(inputs[name].dtype)
        yield name, {**inputs, name: below}


def least_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with the least values that narrow whole numbers hold; None: no input may have them.

    Args:
        kind: of the numpy element types that change, "i" or "f".
    """
    return _elsewhere(module, signature, case, kind, _least)


def end_inputs(module: Any, signature: ModelSignature, case: Case, kind: str) -> Arrays | None:
    """Return the call of a case with wide whole numbers up to the greatest of their type; None: no input may have them.

    Args:
        kind: of the numpy element types that change, "i" or "f".
    """
    return _elsewhere(module, signature, case, kind, _ends)


def refusable_inputs(module: Any, signature: ModelSignature, case: Case) -> Iterator[tuple[str, Arrays]]:
    """Yield calls that the eager model may refuse for one of their whole numbers, by the words for it: a zero, by which
    it may divide, and indices that are far too large or too small."""
    specs = [spec.at(signature.layout.lengths) for spec in signature.inputs]
    ranges = {spec.name: (spec.least, spec.greatest) for spec in specs}
    for words, value in {"a zero": 0, "an index too large": FAR_INDEX, "an index too small": -FAR_INDEX}.items():

        def change(array: NDArray, rng: Rng, name: str, value: int = value) -> NDArray | None:
            least, greatest = ranges[name]
            if (least is not None and value < least) or (greatest is not None and value > greatest):
                return None  # no call comes so far
            return _holding(array, value, rng)

        if (inputs := _elsewhere(module, signature, case, "i", change)) is not None:
            yield words, inputs


def _elsewhere(
    module: Any, signature: ModelSignature, case: Case, kind: str, change: Callable[[NDArray, Rng, str], NDArray | None]
) -> Arrays | None:
    """Return the call of a case with changed values in the inputs that no table or name bounds: those of a plain
    module; of transformers, ids that are computed with, as the characters that CANINE hashes, and time series."""
    inputs, rng = signature.draw(case), np.random.default_rng(case.seed)
    bounded = {spec.name for spec in signature.inputs if spec.is_bounded} | signature.layout.steady
    plain = is_plain(module)
    free = [
        item.name
        for item in signature.layout.inputs
        if item.name not in bounded and (item.kind == "given" if plain else item.kind == "ids" or item.name in SERIES)
    ]
    changed = {name: change(inputs[name], rng, name) for name in free if _may_change(inputs[name], kind)}
    found = {name: array for name, array in changed.items() if array is not None}
    return {**inputs, **found} if found else None


def _may_change(array: NDArray, kind: str) -> bool:
    """Whether an input may have other values than those drawn: switches and masks of zeros and ones may not."""
    of_kind = array.dtype.kind == "f" if kind == "f" else array.dtype.kind in "iu"
    return of_kind and bool(array.size) and not np.isin(array, (0, 1)).all()


def _large(array: NDArray, rng: Rng, _: str = "") -> NDArray:
    """Return values far larger; of narrow whole numbers all that the type holds, where overflow shows."""
    if array.dtype.kind == "f":
        bound = np.finfo(array.dtype).max
        return np.asarray(np.clip(array.astype(np.float64) * TIMES, -bound, bound), dtype=array.dtype)
    most = _EXPONENTS.get(array.dtype.itemsize)
    if most is None:
        greatest = int(np.iinfo(array.dtype).max)
        sizes: NDArray = np.asarray(rng.integers(0, greatest, array.shape, endpoint=True))
    else:
        greatest, sizes = 2**most + 5, _of_any_size(most, array.shape, rng)
    return _signed(sizes, greatest, array, rng)


def _wide_floats(array: NDArray, rng: Rng, _: str) -> NDArray | None:
    """Return floats of every size up to that of wide whole numbers; None: the type is narrow."""
    most = _EXPONENTS[8]
    if array.dtype.itemsize < np.dtype(np.float32).itemsize:
        return None
    return _signed(_of_any_size(most, array.shape, rng), 2**most + 2**20, array, rng)


def _ends(array: NDArray, rng: Rng, _: str) -> NDArray | None:
    """Return values of any size that a wide type holds; None: the type is narrow."""
    most = _ENDS.get(array.dtype.itemsize) if array.dtype.kind == "i" else None
    if most is None:
        return None
    return _signed(_of_any_size(most - 0.01, array.shape, rng), 2**most - 1, array, rng)


def _of_any_size(most: float, shape: tuple[int, ...], rng: Rng) -> NDArray:
    """Return whole numbers of every size below 2**most, with bits of their own down to the last: those of a float are
    zero there."""
    sizes = (2.0 ** rng.uniform(0, most, shape)).astype(np.int64)
    return np.asarray(sizes - rng.integers(0, sizes // 2, endpoint=True))


def _signed(sizes: NDArray, greatest: int, array: NDArray, rng: Rng) -> NDArray:
    """Return sizes, the greatest among them, with the signs of an array. Its place is drawn: that of one input has to
    meet a small value of another, where it is divided."""
    sizes.flat[rng.integers(sizes.size)] = greatest
    return np.asarray(sizes * np.where(array < 0, -1, 1), dtype=array.dtype)


def _holding(array: NDArray, value: int, rng: Rng) -> NDArray | None:
    """Return an array with a value at one place; None: it has that already, or its type does not hold it."""
    limits = np.iinfo(array.dtype)
    if not limits.min <= value <= limits.max or (array == value).any():
        return None
    changed = array.copy()
    changed.flat[rng.integers(changed.size)] = value
    return changed


def _negative(array: NDArray, rng: Rng, _: str) -> NDArray | None:
    """Return values of both signs; None: it has some below zero, or its type holds none."""
    if array.dtype.kind == "u" or (array < 0).any():
        return None
    if array.dtype.kind == "f":
        below = -array
    else:
        below = -1 - (array if array.dtype.itemsize in _EXPONENTS else _large(array, rng))
    turned = np.asarray(rng.random(array.shape) < _TURNED)
    turned.flat[rng.integers(turned.size)] = True
    return np.asarray(np.where(turned, below, array), dtype=array.dtype)


def _least(array: NDArray, _: Rng, __: str) -> NDArray | None:
    """Return the values from the least of a narrow type on, where differences overflow; None: the type is wide."""
    if array.dtype.kind == "f" or array.dtype.itemsize in _EXPONENTS:
        return None
    ends = np.iinfo(array.dtype)
    return np.resize(np.arange(ends.min, ends.max + 1), array.shape).astype(array.dtype)
