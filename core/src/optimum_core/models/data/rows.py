"""Users' data: an iterable of texts, inputs, pictures or sounds, with labels or without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.types.arrays import NDArray

LABELS = ("label", "labels")
_ACCEPTED = "texts, inputs by name, pictures or sounds; a list, a datasets.Dataset or a DataLoader of them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row: input of the model, raw or encoded, one item or a batch of them; and its label.

    Attributes:
        number: from 1, for messages.
    """

    number: int
    value: Any
    label: Any = None

    @property
    def key(self) -> str:
        """sha256 of the value: equal for equal data, whatever the label."""
        digest = hashlib.sha256()
        for part in _parts(self.value, self.number):
            digest.update(part)
        return digest.hexdigest()


class Rows:
    """The rows of an iterable, the same at each iteration; data that is shuffled or can be read only once is stored.

    Args:
        data: the user's argument.
        who: its name in messages ("calibration").
        labelled: each row must have a label.
        limit: rows beyond it are not read.

    Raises:
        OptionError: it is not of a type that could hold rows.
    """

    def __init__(self, data: Any, *, who: str, labelled: bool = False, limit: int | None = None) -> None:
        self.who = who
        self._labelled = labelled
        self._limit = limit
        if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
            raise OptionError(who, f"it is one {type(data).__name__}, and many rows are needed", f"pass {_ACCEPTED}")
        if isinstance(data, Mapping):
            names = ", ".join(map(str, list(data)[:4]))
            raise OptionError(who, f"it is one mapping, of {names}, and many rows are needed", f"pass {_ACCEPTED}")
        once = iter(data) is data or _shuffles(data)
        self._data: Any = list(islice(iter(data), limit)) if once else data

    def __iter__(self) -> Iterator[Row]:
        for number, row in enumerate(islice(iter(self._data), self._limit), start=1):
            yield self._row(number, row)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all rows and their labels."""
        digest = hashlib.sha256()
        for row in self:
            digest.update(row.key.encode())
            for part in _parts(row.label, row.number):
                digest.update(part)
        return digest.hexdigest()

    def _row(self, number: int, row: Any) -> Row:
        if isinstance(row, Mapping):
            name = next((name for name in LABELS if name in row), None)
            if self._labelled and name is None:
                raise self._unlabelled(number)
            rest = {key: value for key, value in row.items() if key not in LABELS}
            return Row(number=number, value=rest, label=row[name] if name else None)
        if isinstance(row, tuple | list) and len(row) == 2 and (self._labelled or _is_number(row[1])):
            return Row(number=number, value=row[0], label=row[1])
        if self._labelled:
            raise self._unlabelled(number)
        return Row(number=number, value=row)

    def _unlabelled(self, number: int) -> OptionError:
        return OptionError(
            self.who, f"row {number} has no label", "pass pairs (text, label), or rows with a key 'label'"
        )


def _shuffles(data: Any) -> bool:
    """Whether a torch DataLoader gives other batches each time it is read."""
    samplers = (getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None))
    return any("Random" in type(sampler).__name__ for sampler in samplers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def as_array(value: Any) -> NDArray | None:
    """Return numbers in any container as an array; None for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, str | bytes | Mapping) or value is None:
        return None
    if not isinstance(value, np.ndarray | list | tuple | int | float | bool | np.generic):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        return None
    return array if array.dtype.kind in "biuf" else None


def _parts(value: Any, number: int) -> Iterator[bytes]:
    """Yield bytes that differ if values differ.

    Raises:
        OptionError: the value is of an unknown type.
    """
    if value is None or isinstance(value, str | int | float):
        yield f"{type(value).__name__}:{value!r};".encode()
    elif isinstance(value, Mapping):
        yield b"{"
        for name in sorted(value, key=str):
            yield f"{name!r}=".encode()
            yield from _parts(value[name], number)
        yield b"}"
    elif (array := as_array(value)) is not None:
        yield f"{array.dtype}{array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()
    elif isinstance(value, tuple | list):
        yield b"["
        for item in value:
            yield from _parts(item, number)
        yield b"]"
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # a PIL picture
        yield f"{getattr(value, 'mode', '')}{value.size}".encode()
        yield value.tobytes()
    else:
        raise OptionError(f"data, row {number}", f"it is a {type(value).__name__}", f"pass {_ACCEPTED}")
