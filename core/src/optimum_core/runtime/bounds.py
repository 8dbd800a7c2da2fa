"""Bounds of a model's input values and lengths, checked at every call, independently of the backend."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, Self

import numpy as np

from optimum_core.errors import InputError, UnprovedLengthWarning
from optimum_core.types import AxisRange, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_core.types.tensors import is_batch, places_of

_LEAST_OF_64_BITS = -(2**63)
_MOST_OF_64_BITS = 2**63 - 1


class ValueRange:
    """The least and the greatest allowed value of an integer input; None: no limit.

    Attributes:
        least, greatest: both included; where there is no limit, those of 64 bits.
        skipped: a value beside the range that is taken too; None: there is none.
        all_skipped: whether it may be the only one.
        words: description of the range, for errors.
        remedy: what the caller can do about a value outside it.
    """

    __slots__ = ("all_skipped", "greatest", "least", "remedy", "skipped", "words")

    def __init__(
        self,
        least: int | None,
        greatest: int | None,
        *,
        are_ids: bool,
        skipped: int | None = None,
        all_skipped: bool = False,
    ) -> None:
        self.skipped, self.all_skipped = skipped, all_skipped
        self.least = _LEAST_OF_64_BITS if least is None else least
        self.greatest = _MOST_OF_64_BITS if greatest is None else greatest
        what = "ids" if are_ids else "values"
        joined = "from" if least is not None and greatest is not None else "of"
        self.words = f"{what} {joined} {_from_to(least, greatest)}"
        self.words += "" if skipped is None else f", or {skipped}" if all_skipped else f", or {skipped} beside such"
        self.remedy = "use the tokenizer that the model was trained with" if are_ids else ""
        if are_ids and greatest is not None:
            self.remedy += f", or resize the model's embeddings beyond {greatest + 1} and accelerate it again"

    @classmethod
    def of(cls, spec: TensorSpec) -> Self | None:
        """Return the range of an input, or None. Ids are never negative: runtimes count those from the table's end."""
        are_ids = spec.name.endswith("input_ids")
        least = 0 if are_ids and spec.least is None else spec.least
        dtype = np.dtype(spec.dtype) if spec.dtype != "bfloat16" else None
        if dtype is None or dtype.kind not in "iu" or (least is None and spec.greatest is None):
            return None
        return cls(least, spec.greatest, are_ids=are_ids, skipped=spec.skipped, all_skipped=spec.all_skipped)

    def wrong(self, value: Any) -> int | None:
        """Return one of the values that are out of range, or None.

        Args:
            value: an array of the input's type with at least one value, or a tensor on a device.
        """
        if not hasattr(value, "min"):  # device memory that only the runtime can read
            return None
        if self.skipped is not None:
            value = value[value != self.skipped]
            if not any(value.shape):
                return None if self.all_skipped else self.skipped
        least, greatest = int(value.min()), int(value.max())
        if least >= self.least:
            return None if greatest <= self.greatest else greatest
        return least


def converted(value: NDArray, dtype: np.dtype[Any]) -> NDArray | None:
    """Return an array in another type; None: as whole numbers there, some would be others."""
    made = value.astype(dtype)
    exact = dtype.kind not in "iu" or np.can_cast(value.dtype, dtype) or bool((made == value).all())
    return made if exact else None


def typed(made: NDArray, dtype: np.dtype[Any] | None) -> NDArray:
    """Return what numpy made of Python's numbers, which have no type, in an input's type if that holds all of them."""
    if dtype is None or made.dtype.kind + dtype.kind not in ("ff", "ii", "iu", "ui", "uu"):
        return made
    found = converted(made, dtype)
    return made if found is None else found


def is_finite(value: Any) -> bool:
    """Whether no value is NaN or infinity.

    Args:
        value: an array of floats with at least one value, or a tensor on a device.
    """
    if isinstance(value, np.ndarray):
        finite = np.isfinite(value)  # a sum takes longer, and of float16 it overflows
        return bool(finite.item(finite.argmin()))
    if not hasattr(value, "isfinite"):  # device memory that only the runtime can read
        return True
    return bool(value.isfinite().all())


class BoxSides:
    """The least and the greatest width and height of boxes x0, y0, x1, y1 that the model takes.

    Attributes:
        words: description of them, for errors.
        remedy: what the caller can do about others.
    """

    __slots__ = ("greatest", "least", "remedy", "words")

    def __init__(self, least: int, greatest: int) -> None:
        self.least, self.greatest = least, greatest
        self.words = f"boxes x0, y0, x1, y1 with x1 - x0 and y1 - y0 from {least} to {greatest}"
        self.remedy = "sort the corners of each box, as the eager model refuses these too"

    def wrong(self, boxes: Any) -> int | None:
        """Return a width or height that is out of range, or None.

        Args:
            boxes: an array with at least one box, or a tensor on a device.
        """
        if not hasattr(boxes, "min"):  # device memory that only the runtime can read
            return None
        sides = boxes[..., 2:] - boxes[..., :2]
        least, greatest = int(sides.min()), int(sides.max())
        if least >= self.least:
            return None if greatest <= self.greatest else greatest
        return least


class ColumnRanges:
    """The least and the greatest value at each place along the last axis, where these differ.

    Attributes:
        words: description of them, for errors.
        remedy: what the caller can do about others.
    """

    __slots__ = ("_greatest", "_least", "remedy", "words")

    def __init__(self, columns: Sequence[tuple[float | None, float | None]]) -> None:
        self._least = np.array([-inf if least is None else least for least, _ in columns])
        self._greatest = np.array([inf if greatest is None else greatest for _, greatest in columns])
        ranges = [f"{index}: {_from_to(*column)}" for index, column in enumerate(columns) if column != (None, None)]
        self.words = f"values within the bounds of each place along the last axis ({', '.join(ranges)})"
        if len(columns) == 1:
            self.words = f"values of {_from_to(*columns[0])}"
        self.remedy = "pass values that the eager model takes, which refuses these too"

    def wrong(self, value: Any) -> str | None:
        """Return one of the values that are out of range, with its place; or None.

        Args:
            value: an array with at least one value, or a tensor on a device.
        """
        if not hasattr(value, "min"):  # device memory that only the runtime can read
            return None
        alike = len(self._least) == 1
        shared = 1 if alike else min(value.shape[-1], len(self._least))
        low, high = self._least[:shared], self._greatest[:shared]
        if isinstance(value, np.ndarray):
            known = value if alike else value[..., :shared]
            if ((known >= low) & (known <= high)).all():
                return None
        for index, (least, greatest) in enumerate(zip(low, high, strict=True)):
            column = value if alike else value[..., index]
            for found in (column.min().item(), column.max().item()):
                if not least <= found <= greatest:
                    return f"{found}" if alike else f"{found} at {index}"
        return None


def row_bounds(spec: TensorSpec) -> BoxSides | ColumnRanges | None:
    """Return the bounds that an input has within each row, or None."""
    if spec.sides is not None:
        return BoxSides(*spec.sides)
    return None if spec.columns is None else ColumnRanges(spec.columns)


def _from_to(least: float | None, greatest: float | None) -> str:
    if greatest is None:
        return f"{_number(least)} and above"
    return f"{_number(greatest)} and below" if least is None else f"{_number(least)} to {_number(greatest)}"


def _number(bound: float | None) -> str:
    return f"{int(bound)}" if bound is not None and float(bound).is_integer() else f"{bound}"


class LengthBounds:
    """The lengths that a model accepts, and those at which it was compared with the original.

    Args:
        who: the model, for errors.
        axes: ranges by named axis.
        specs: the inputs, to say which axis of which input one without a name of its own is.
    """

    def __init__(self, who: str, axes: Mapping[str, AxisRange], specs: Sequence[TensorSpec] = ()) -> None:
        self._who = who
        self._axes = axes
        self._places = places_of((spec.name, spec.shape) for spec in specs)
        self._masks = {axis: spec.name for spec in specs if spec.name.endswith("mask") for axis in spec.shape}
        self._told: set[str] = set()

    def check(self, axis: str, length: int) -> None:
        """Reject a length that the model does not accept; warn, once per axis, of one that was not compared.

        Raises:
            InputError: it is shorter or longer than the model allows.
        """
        allowed = self._axes.get(axis)
        if allowed is None:
            return
        if length < allowed.least:
            why = f"{self._length(axis, length)}, the model takes {allowed.least} or more"
            remedy = "leave empty inputs out" if length == 0 else self._lengthen(axis, allowed.least)
            raise InputError(self._who, _with_reason(why, allowed.why_least), remedy)
        if allowed.greatest is not None and length > allowed.greatest:
            why = f"{self._length(axis, length)}, the model takes {allowed.greatest}"
            raise InputError(self._who, _with_reason(why, allowed.why), _shorten(axis, allowed.greatest))
        if allowed.proved is not None and not allowed.proved[0] <= length <= allowed.proved[1]:
            self._warn(axis, length, allowed.proved)

    def _lengthen(self, axis: str, least: int) -> str:
        if axis in self._masks and not is_batch(axis):
            return f"pad to that length, with zeros in {self._masks[axis]}"
        return f"pass at least {least}"

    def _length(self, axis: str, length: int) -> str:
        if axis in self._places:
            return f"{self._places[axis]} has length {length}"
        if axis.endswith("sequence"):
            word = axis.removesuffix("sequence").replace("_", " ") + ("token" if length == 1 else "tokens")
            return f"{length} {word}"
        if axis in ("samples", "frames", "choices"):
            return f"{length} {axis[:-1] if length == 1 else axis}"
        return f"{'an' if axis[0] in 'aeio' else 'a'} {axis} of {length}"

    def as_elsewhere(self, axis: str, index: int, length: int) -> str:
        """Return the words for a length that an axis, here the one at `index`, has in the other inputs."""
        if axis in self._places:
            return f"length {length} at axis {index}, as at {self._places[axis]}"
        return f"{axis} {length}, as in the other inputs"

    def to_keep_apart(self) -> str:
        """Return what to do about two lengths that are one axis only because the samples of a plain module had them
        equal; "" for axes that are known by name."""
        if not self._places:
            return ""
        return "pass equal lengths there; or accelerate the model with sample_inputs in which they differ"

    def _warn(self, axis: str, length: int, proved: tuple[int, int]) -> None:
        if axis in self._told:
            return
        self._told.add(axis)
        shortest, longest = proved
        warnings.warn(
            f"{self._who}: {self._length(axis, length)}; it was compared with the original at {shortest} to {longest} "
            "only. Nothing is known to go wrong beyond; compare some results with the eager model's",
            UnprovedLengthWarning,
            stacklevel=7,
        )


def _with_reason(problem: str, reason: str) -> str:
    return f"{problem} ({reason})" if reason else problem


def _shorten(axis: str, greatest: int) -> str:
    if axis.endswith("sequence"):
        return f"truncate: tokenizer(…, truncation=True, max_length={greatest}); or split the text"
    return f"pass at most {greatest}"


def require_order(who: str, names: Iterable[str], arrays: Mapping[str, Any]) -> None:
    """Refuse inputs whose numbers do not lie in order, where the eager model answers such otherwise.

    Raises:
        InputError: one is a transposed, sliced or expanded view.
    """
    for name in names:
        value = arrays[name]
        # What lies on a device is torch's, or tells nothing of its order.
        is_ordered = value.flags.c_contiguous if isinstance(value, np.ndarray) else _is_contiguous(value)
        if not is_ordered:
            why = f"input {name!r} is no contiguous array, and the original's answers follow its order in memory"
            remedy = f"pass {name}.contiguous(), or np.ascontiguousarray({name}); or call the original"
            raise InputError(who, why, remedy)


def _is_contiguous(value: Any) -> bool:
    """Whether the numbers of a device array lie in order, or it has no method that says so."""
    asked = getattr(value, "is_contiguous", None)
    return asked is None or bool(asked())
