"""The scale of an output, by which its errors and ties are measured.

One huge value must not hide the errors of the others: masked scores are often -1e4, -1e9 or the least float, and boxes
in pixels stand beside scores below 1. So an output is split where its magnitudes leave a wide gap, by value, by row and
by channel, and each part is measured by its own greatest magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]

#: Magnitude below which a value counts as zero.
LEAST = 1e-6
#: Binary exponent (values of 8 and above) from which values may be split off as huge, and the number of empty exponents
#: that must lie below them.
_HUGE, _GAP = 4, 5
#: Of numbers in 64 bits: the bits below the exponent, the number of exponents, and what is added to one of `frexp`.
_MANTISSA, _BIASED, _BIAS = 52, 2048, 1022
#: Values whose exponents are counted at once.
_BLOCK = 2**20
#: Neighbouring exponents that values of one fill, such as masked scores, have at most: no sum of them is near zero by
#: chance.
_OF_A_FILL = 2
#: Least scale of the other values beside huge ones.
_LEAST_BESIDE = 1e-3
#: Ratio of the greatest magnitudes of a row or channel and the next, above which they are split.
_APART = 100.0
#: Least scale of such a part, and of values below others of many magnitudes, as a share of the next greater scale:
#: smaller errors come from the rounding of that.
_FLOOR = 1e-3
#: Errors of which rounding alone is the cause, in two runs of one model that compute the same in another way: among
#: values of similar magnitude, and in parts, rows and channels beside greater ones that are rounded too.
_ROUNDING, _ROUNDING_APART = 1e-5, 1e-3


def relative_error(want: Floats, have: Floats) -> float:
    """Return the largest error of any part of an output over the greatest magnitude of that part.

    Args:
        want, have: finite arrays of one shape.
    """
    if not want.size:
        return 0.0
    want, have = np.atleast_1d(want), np.atleast_1d(have)  # an output may be one number, without an axis
    size, error = np.abs(want), np.abs(have - want)
    found = _error_by_value(size, error)
    for axis in _apart_axes(want):
        found = max(found, _error_by(axis, size, error))
    return found


def is_rounding(want: Floats, have: Floats) -> bool:
    """Whether two outputs of one model for the same inputs are equal but for rounding.

    Values are measured beside others of a similar magnitude. Where much greater ones differ too, the rounding of these
    may count for more: a value near zero is often the sum of such.

    Args:
        want, have: arrays of one shape; NaN and infinity must be in the same places.
    """
    if (pair := finite_pair(want, have)) is None:
        return False
    want, have = map(np.atleast_1d, pair)
    if np.array_equal(want, have):
        return True
    is_near = _is_rounding_by_value(np.abs(want), np.abs(have - want))
    return is_near and relative_error(want, have) <= _ROUNDING_APART


def finite_pair(want: Floats, have: Floats) -> tuple[Floats, Floats] | None:
    """Return two arrays of one shape with zeros for NaN and infinity; None: these are in other places, or others."""
    finite = np.isfinite(want)
    if not np.array_equal(want[~finite], have[~finite], equal_nan=True) or not np.isfinite(have[finite]).all():
        return None
    return np.where(finite, want, 0.0), np.where(finite, have, 0.0)


def norm_error(want: Floats, have: Floats) -> float:
    """Return the largest norm of the error of any part of an output over the norm of that part.

    Args:
        want, have: finite arrays of one shape.
    """
    want, have = np.atleast_1d(want), np.atleast_1d(have)
    pairs = [(want[part], have[part]) for part, _ in _parts(np.abs(want))]
    return max((float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-12)) for a, b in pairs), default=0.0)


def cosine(want: Floats, have: Floats) -> float:
    """Return the least cosine of any part of two outputs as flat vectors; 1.0 where both are zero."""
    want, have = np.atleast_1d(want), np.atleast_1d(have)
    size = np.abs(want)
    # What is all below its scale is what rounding leaves of greater values: it has no direction.
    parts = [part for part, scale in _parts(size) if scale <= max(float(size[part].max(initial=0.0)), _LEAST_BESIDE)]
    return min((_cosine(want[part], have[part]) for part in parts), default=1.0)


def agreement(want: Floats, have: Floats, slack: float) -> float:
    """Return the share of positions with the same arg-max along the last axis.

    Args:
        slack: ties count as the same within this share of the greatest magnitude in the row among values of the part
            that its greatest value is in; or of a thousandth of the part's scale, if that is more.
    """
    picked = np.take_along_axis(want, have.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best = want.max(axis=-1)
    return float(np.mean(picked >= best - slack * tie_scales(want, best))) if slack else float(np.mean(picked >= best))


def tie_scales(want: Floats, best: Floats) -> Floats:
    """Return by row the magnitude that a gap below its greatest value is measured by: the greatest one of the part that
    this value is in.

    Args:
        best: the greatest value of each row.
    """
    size, found = np.abs(want), np.zeros_like(best)
    for part, scale in _parts(size):
        kept = np.zeros_like(size)
        kept[part] = size[part]
        rows = kept.max(axis=-1)
        unknown = (found == 0) & (rows >= np.abs(best))
        found = np.where(unknown, np.maximum(rows, _FLOOR * scale), found)
    return found


def _error_by_value(size: Floats, error: Floats) -> float:
    """Return the largest error over the greatest magnitude among values of its part."""
    return max(float(error[part].max()) / scale for part, scale in _parts(size))


def _is_rounding_by_value(size: Floats, error: Floats) -> bool:
    above = 0.0  # of the parts of greater values: the error that their rounding explains
    for part, scale in reversed(list(_parts(size))):
        found = float(error[part].max())
        if found > max(_ROUNDING * scale, min(_ROUNDING_APART * scale, above)):
            return False
        above = max(above, _ROUNDING * scale) if found else above
    return True


def _cosine(want: Floats, have: Floats) -> float:
    a, b = want.reshape(-1), have.reshape(-1)
    # Each is divided by its own greatest magnitude: the square of the least float overflows.
    a, b = (item / max(float(np.abs(item).max(initial=0.0)), 1e-300) for item in (a, b))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms < 1e-12 or max(np.abs(want).max(initial=0.0), np.abs(have).max(initial=0.0)) < LEAST:
        return 1.0 if np.abs(want - have).max(initial=0.0) < LEAST else 0.0
    return float(a @ b) / norms


def _parts(size: Floats) -> Iterator[tuple[Any, float]]:
    """Yield the parts of values of similar magnitude, each with the scale of its errors: the greatest magnitude in it,
    but no less than what the rounding of greater values leaves of a sum of such."""
    greatest = float(size.max(initial=0.0))
    edges = _edges(size) if greatest >= 2 ** (_HUGE - 1) else []
    if not edges:
        yield slice(None), max(greatest, LEAST)
        return
    parts = [(size >= low) & (size < high) for low, high in pairwise([-np.inf, *edges, np.inf])]
    floors = [*(_rounding_beside(size[part]) for part in parts[1:]), 0.0]
    for part, floor in zip(parts, floors, strict=True):
        yield part, max(float(size[part].max()), floor, _LEAST_BESIDE)


def _rounding_beside(greater: Floats) -> float:
    """Return the least scale of the values below these: 0.0 where these are of one fill."""
    is_fill = len(np.unique(np.frexp(greater)[1])) <= _OF_A_FILL
    return 0.0 if is_fill else _FLOOR * float(greater.max())


def _edges(size: Floats) -> list[float]:
    """Return the lower edges of huge values: magnitudes below which nothing lies for a factor of 32 or more."""
    used = _exponents(size)
    jumps = np.flatnonzero(np.diff(used) > _GAP)
    return [float(np.ldexp(0.5, int(used[index + 1]))) for index in jumps if used[index + 1] >= _HUGE]


def _exponents(size: Floats) -> Floats:
    """Return the binary exponents of the values above zero, as `frexp` gives them, each once and in order.

    They are counted from the bits of the numbers, a block at a time: an output may have a hundred million values.
    """
    flat, counts = size.reshape(-1), np.zeros(_BIASED, dtype=np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = np.ascontiguousarray(flat[start : start + _BLOCK], dtype=np.float64)
        counts += np.bincount((block.view(np.int64) >> _MANTISSA) & (_BIASED - 1), minlength=_BIASED)
    if counts[0]:  # zeros, and numbers too small for an exponent of their own
        counts[0] = np.count_nonzero((flat > 0) & (flat < np.finfo(np.float64).tiny))
    return np.flatnonzero(counts) - _BIAS


def _apart_axes(want: Floats) -> Iterator[int]:
    """Yield the axes of rows and channels, if they have several, of several values each: one value has no scale, and by
    chance may be near zero."""
    if want.ndim >= 2:
        yield from (axis for axis in (0, want.ndim - 1) if 1 < want.shape[axis] < want.size)


def _error_by(axis: int, size: Floats, error: Floats) -> float:
    """Return the error relative to the scale of each group of similar slices along an axis, where slices differ widely
    in scale; else 0.0."""
    others = tuple(index for index in range(size.ndim) if index != axis)
    scales, errors = size.max(axis=others), error.max(axis=others)
    order = np.argsort(scales)[::-1]
    found, above = 0.0, 0.0
    starts = [0, *(np.flatnonzero(scales[order][:-1] > _APART * scales[order][1:]) + 1)]
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        group = order[start:stop]
        scale = max(float(scales[group[0]]), _FLOOR * above, LEAST)
        found, above = max(found, float(errors[group].max()) / scale), scale
    return found
