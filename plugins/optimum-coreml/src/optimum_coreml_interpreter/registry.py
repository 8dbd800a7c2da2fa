"""Registry of operators by name, and helpers that their implementations share.

An implementation takes an operator's inputs by MIL's names, tensors as torch tensors and texts as `str`, and returns a
tensor, or a tuple of the outputs. Its parameters are the inputs that it supports: another input is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Operator = Callable[..., Any]
_Function = TypeVar("_Function", bound=Operator)

#: Implementations by name; modules of this package fill it when they are imported.
OPERATORS: dict[str, Operator] = {}
#: Operators that get the program's opset, 5 for iOS15 to 8 for iOS18, as `opset`.
VERSIONED: set[str] = set()


class UndefinedError(ValueError):
    """Raised where an operator's specification leaves its inputs undefined, or they are not supported here."""


def operator(*names: str, versioned: bool = False) -> Callable[[_Function], _Function]:
    """Register an implementation."""

    def register(function: _Function) -> _Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        if versioned:
            VERSIONED.update(names)
        return function

    return register


def integers(value: torch.Tensor) -> list[int]:
    """Return a vector, or one number, as a list.

    >>> integers(torch.tensor([1, -1])), integers(torch.tensor(2))
    ([1, -1], [2])
    """
    return [int(item) for item in value.reshape(-1).tolist()]


def integer(value: torch.Tensor | int) -> int:
    """Return one number."""
    return int(value.item()) if isinstance(value, torch.Tensor) else int(value)


def flag(value: torch.Tensor | bool) -> bool:
    """Return one boolean."""
    return bool(value.item()) if isinstance(value, torch.Tensor) else bool(value)


def axis_of(axis: torch.Tensor | int, rank: int) -> int:
    """Return the index of an axis among `rank` axes; negative ones count from the last.

    Raises:
        UndefinedError: there is no such axis.
    """
    place = integer(axis)
    if not -rank <= place < rank:
        raise UndefinedError(f"axis {place} of {rank}")
    return place % rank


def axes_of(axes: torch.Tensor | None, rank: int) -> list[int]:
    """Return axis indices in order; None: all of them."""
    return list(range(rank)) if axes is None else sorted({axis_of(axis, rank) for axis in integers(axes)})


def wide(value: torch.Tensor) -> torch.Tensor:
    """Return the tensor in the type that sums are taken in: 32 bits for 16."""
    return value.float() if value.dtype == torch.float16 else value


def indices_within(indices: torch.Tensor, length: int, opset: int) -> torch.Tensor:
    """Return indices from 0, of 64 bits. Until iOS16, negative ones count from the end; since iOS17 they are undefined.

    Raises:
        UndefinedError: an index is out of range.
    """
    found = indices.long()
    if opset < 7:
        found = torch.where(found < 0, found + length, found)
    if found.numel() and not bool(((found >= 0) & (found < length)).all()):
        worst = found.reshape(-1)[((found < 0) | (found >= length)).reshape(-1)][0]
        raise UndefinedError(f"index {int(worst)} into an axis of {length}")
    return found
