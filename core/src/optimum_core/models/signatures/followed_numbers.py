"""Numbers that follow a tensor's sizes through arithmetic, and report what Python code compares them with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

from optimum_core.models.signatures.size_terms import Term, calculated

#: The name of what is no comparison: a number is rounded, which may come out otherwise in 32 bits than in Python's 64.
ROUNDED = "rounded"
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_BITS = ("lshift", "rshift", "and", "or", "xor")
_ROUNDING = ("ceil", "floor", "round", "trunc")
_OF_ONE = ("neg", "pos", "abs", *_ROUNDING)
#: Functions of `math` that take numbers with plain values, by the operation that each is.
FUNCTIONS = ("sqrt", "isqrt", "log", "log2", "log10", "exp", "gcd", "pow")


class Listener(Protocol):
    """A listener to comparisons. Both methods are called by a method that the model's code called."""

    def compared(self, name: str, left: Term, right: Term) -> None:
        """Record a comparison, by the name of its method."""

    def looked_up(self, name: str, size: Term) -> None:
        """Record a size that code compares with numbers unseen: of a container, or after making it a plain one."""


def followed(number: Any, listener: Listener, term: Term | None = None) -> Any:
    """Return an integer or a float that reports comparisons of itself and of what is calculated from it; anything else
    as it is.

    Args:
        term: how it was calculated; None: it is a size.
    """
    kind = {int: Size, float: Real}.get(type(number))
    return number if kind is None else kind(number, listener, term)


def function_followed(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of `math` whose results follow the sizes among its arguments."""

    def apply(*numbers: Any) -> Any:
        found = plain(*map(_plain, numbers))
        listener = next((number.listener for number in numbers if isinstance(number, _Followed)), None)
        return found if listener is None else followed(found, listener, calculated(found, name, *map(term_of, numbers)))

    return apply


def extreme_followed(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return `min` or `max`, whose result follows all of the sizes among the numbers that it is of."""
    method = {"min": "__lt__", "max": "__gt__"}[name]

    def apply(*values: Any, **options: Any) -> Any:
        numbers = values if len(values) > 1 else tuple(*values)
        listener = next((number.listener for number in numbers if isinstance(number, _Followed)), None)
        if options or listener is None or not all(isinstance(number, int | float) for number in numbers):
            return plain(numbers, **options)
        term, *others = map(term_of, numbers)
        for other in others:
            listener.compared(method, other, term)
            term = calculated(plain(term.value, other.value), name, term, other)
        return followed(plain(map(_plain, numbers)), listener, term)

    return apply


class _Followed:
    """A number with the listener that hears of its comparisons, and how it was calculated."""

    listener: Listener
    term: Term

    def __new__(cls, value: Any, listener: Listener, term: Term | None = None) -> Self:
        found = super().__new__(cls, value)  # type: ignore[call-arg]
        found.listener, found.term = listener, term or Term(value)
        return found

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        plain = _plain(self)
        return type(plain), (plain,)

    def __bool__(self) -> bool:
        self.listener.compared("__ne__", self.term, Term(0))
        return bool(_plain(self))


class Size(_Followed, int):
    """An integer, calculated from a tensor's sizes. A pickle of it holds the plain number."""

    def __hash__(self) -> int:
        self.listener.looked_up("__eq__", self.term)
        return int.__hash__(self)

    def __int__(self) -> int:
        self.listener.looked_up("__gt__", self.term)
        return int.__int__(self)

    def __float__(self) -> float:
        self.listener.looked_up("__gt__", self.term)
        return int.__float__(self)

    def __divmod__(self, other: Any) -> Any:
        found = int.__divmod__(self, other)
        if found is NotImplemented:
            return found
        terms = self.term, term_of(other)
        self.listener.compared("__mod__", *terms)
        names = ("floordiv", "mod")
        return tuple(
            followed(n, self.listener, calculated(n, name, *terms)) for n, name in zip(found, names, strict=True)
        )

    def bit_length(self) -> Any:
        """Return the number of bits of the number, as a number that follows it."""
        found = int.bit_length(self)
        return followed(found, self.listener, calculated(found, "bit_length", self.term))


class Real(_Followed, float):
    """A float, calculated from a tensor's sizes. A pickle of it holds the plain number."""

    __hash__ = float.__hash__

    def __int__(self) -> int:
        found = math.trunc(float.__float__(self))
        rounded = calculated(found, "trunc", self.term)
        self.listener.compared(ROUNDED, rounded, Term(0))
        self.listener.looked_up("__gt__", rounded)
        return found


def _plain(number: Any) -> Any:
    if isinstance(number, Size):
        return int.__int__(number)
    return float.__float__(number) if isinstance(number, Real) else number


def term_of(number: Any) -> Term:
    """Return how a number was calculated."""
    return number.term if isinstance(number, _Followed) else Term(number)


def _compare(name: str, kind: type[Any]) -> Callable[[Any, Any], Any]:
    plain = getattr(kind, name)

    def compare(self: Any, other: Any) -> Any:
        if isinstance(other, int | float) and not (kind is int and isinstance(other, Real)):
            self.listener.compared(name, self.term, term_of(other))
        return plain(self, other)

    return compare


def _calculate(name: str, kind: type[Any], *, is_reflected: bool = False) -> Callable[..., Any]:
    method = f"__{'r' * is_reflected}{name}__"
    plain = getattr(kind, method)

    def calculate(self: Any, *others: Any) -> Any:
        found = plain(self, *others)
        if found is NotImplemented and kind is int and type(others[0]) is float:
            found = getattr(float, method)(int.__float__(self), others[0])
        if not isinstance(found, int | float):
            return found
        terms = [self.term, *map(term_of, others)]
        if kind is float and name in _ROUNDING:
            self.listener.compared(ROUNDED, calculated(found, name, *terms), Term(0))
        if name == "mod" and not is_reflected and type(found) is int:  # what is divided is often padded to be divisible
            self.listener.compared("__mod__", *terms)
        return followed(found, self.listener, calculated(found, name, *(reversed(terms) if is_reflected else terms)))

    return calculate


for _kind, _base in ((Size, int), (Real, float)):
    for _name in _COMPARISONS:
        setattr(_kind, f"__{_name}__", _compare(f"__{_name}__", _base))
    _of_two = (*_ARITHMETIC, *(_BITS if _kind is Size else ()))
    for _name in (*_of_two, *_OF_ONE, *(("invert",) if _kind is Size else ())):
        setattr(_kind, f"__{_name}__", _calculate(_name, _base))
    for _name in _of_two:
        setattr(_kind, f"__r{_name}__", _calculate(_name, _base, is_reflected=True))
