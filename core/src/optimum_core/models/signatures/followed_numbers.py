"""Numbers that follow a tensor's sizes through arithmetic, and report what Python code compares them with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

#: Units of one for comparisons between numbers of which one is no integer: they are reported as integers.
_UNITS = 2**20
#: Greatest magnitude that is reported: lines through such numbers are floats.
_GREATEST = 2**900

_COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__")
_BINARY = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "pow")
_ROUNDING = ("neg", "pos", "abs", "ceil", "floor", "round", "trunc")
_SHIFTS = ("lshift", "rshift")


class Listener(Protocol):
    """A listener to comparisons. Both methods are called by a method that the model's code called."""

    def compared(self, name: str, left: int, right: int) -> None:
        """Hear of a comparison, by the name of its method."""

    def looked_up(self, name: str, size: int) -> None:
        """Hear of a size that code compares with numbers unseen: of a container, or after making it a plain one."""


def _compare(name: str, kind: type[Any]) -> Callable[[Any, Any], Any]:
    plain = getattr(kind, name)

    def compare(self: Any, other: Any) -> Any:
        if kind is int and isinstance(other, int):
            self.listener.compared(name, _told(self), _told(other))
        elif isinstance(other, int | float) and not (kind is int and isinstance(other, Real)):
            left, right = map(_in_units, (self, other))
            if math.isfinite(left) and math.isfinite(right):
                self.listener.compared(name, _limited(math.floor(left)), _limited(math.floor(right)))
        return plain(self, other)

    return compare


def _calculate(name: str, kind: type[Any]) -> Callable[..., Any]:
    plain = getattr(kind, name)

    def calculate(self: Any, *others: Any) -> Any:
        found = plain(self, *others)
        if found is NotImplemented and kind is int and type(others[0]) is float:
            found = getattr(float, name)(_float(self), others[0])
        return followed(found, self.listener)

    return calculate


def followed(number: Any, listener: Listener) -> Any:
    """Return an integer or a float that reports comparisons of itself and of what is calculated from it; anything else
    as it is."""
    kind = {int: Size, float: Real}.get(type(number))
    return number if kind is None else kind(number, listener)


class _Followed:
    """A number with the listener that hears of its comparisons."""

    listener: Listener

    def __new__(cls, value: Any, listener: Listener) -> Self:
        found = super().__new__(cls, value)  # type: ignore[call-arg]
        found.listener = listener
        return found

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class Size(_Followed, int):
    """An integer, calculated from a tensor's sizes. A pickle of it holds the plain number."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (_whole(self),)

    def __bool__(self) -> bool:
        self.listener.compared("__ne__", _told(self), 0)
        return _whole(self) != 0

    def __hash__(self) -> int:
        self.listener.looked_up("__eq__", _told(self))
        return int.__hash__(self)

    def __int__(self) -> int:
        self.listener.looked_up("__gt__", _told(self))
        return _whole(self)

    def __float__(self) -> float:
        self.listener.looked_up("__gt__", _told(self))
        return _float(self)

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, int):
            self.listener.compared("__mod__", _told(self), _told(other))
        return int.__mod__(self, other)

    def __and__(self, mask: Any) -> Any:
        if isinstance(mask, int) and not _whole(mask) & (_whole(mask) + 1):  # of the lowest bits: a remainder
            self.listener.compared("__mod__", _told(self), _told(mask) + 1)
        return int.__and__(self, mask)

    def __divmod__(self, other: Any) -> Any:
        if isinstance(other, int):
            self.listener.compared("__mod__", _told(self), _told(other))
        found = int.__divmod__(self, other)
        return found if found is NotImplemented else (followed(found[0], self.listener), found[1])


class Real(_Followed, float):
    """A float, calculated from a tensor's sizes. A pickle of it holds the plain number."""

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (_float(self),)

    __hash__ = float.__hash__

    def __bool__(self) -> bool:
        if math.isfinite(units := _in_units(self)):
            self.listener.compared("__ne__", _limited(math.floor(units)), 0)
        return _float(self) != 0

    def __int__(self) -> int:
        whole = math.trunc(_float(self))
        self.listener.looked_up("__gt__", _limited(whole))
        return whole


for _kind, _base in ((Size, int), (Real, float)):
    for _name in _COMPARISONS:
        setattr(_kind, _name, _compare(_name, _base))
    for _name in (*_BINARY, *_ROUNDING, *(_SHIFTS if _kind is Size else ())):
        setattr(_kind, f"__{_name}__", _calculate(f"__{_name}__", _base))


def _whole(number: int) -> int:
    return int.__int__(number)


def _told(number: int) -> int:
    return _limited(_whole(number))


def _float(number: float) -> float:
    return int.__float__(number) if isinstance(number, int) else float.__float__(number)


def _in_units(number: float) -> float:
    try:
        return _float(number) * _UNITS
    except OverflowError:  # Python compares an integer beyond all floats with one
        return math.inf


def _limited(number: int) -> int:
    return max(-_GREATEST, min(number, _GREATEST))
