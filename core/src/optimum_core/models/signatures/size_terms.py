"""Expressions of sizes, as Python code calculated them in runs at a few lengths, evaluated at many others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.types.arrays import NDArray

#: Returns a number at many lengths, from its values in the runs.
Fit = Callable[[Sequence[float]], NDArray]

#: Most operations of one expression; beyond, it is followed by its values alone.
_MOST_OPERATIONS = 60


@dataclass(frozen=True, slots=True)
class Term:
    """A number in one run, and how it was calculated.

    Attributes:
        value: the number.
        operation: the name of the operation that gave it; empty: it is a tensor's size, or a number of the code.
        operands: what it was calculated from.
        operations: how many operations led to it.
    """

    value: float
    operation: str = ""
    operands: tuple[Term, ...] = ()
    operations: int = 0

    def uses(self, operation: str) -> bool:
        """Whether an operation of that name led to it."""
        return self.operation == operation or any(operand.uses(operation) for operand in self.operands)


def calculated(value: float, operation: str, *operands: Term) -> Term:
    """Return the term of an operation's result: of its value alone if the operation is unknown, or the last of many."""
    operations = 1 + sum(operand.operations for operand in operands)
    if (operation, len(operands)) not in _FUNCTIONS or operations > _MOST_OPERATIONS:
        return Term(value)
    return Term(value, operation, operands, operations)


def evaluate(terms: Sequence[Term], fit: Fit, kind: Any = np.float64) -> NDArray:
    """Return an expression's values at many lengths.

    Args:
        terms: the expression in each run. Where the runs calculated it in different ways, its values are fitted.
        fit: returns the values of a size at these lengths.
        kind: the type of numbers to calculate in.
    """
    first = terms[0]
    ways = {(term.operation, len(term.operands)) for term in terms}
    if not first.operation or len(ways) > 1:
        values = [term.value for term in terms]
        found = fit([_float(value) for value in values])
        return np.asarray(np.rint(found) if all(isinstance(value, int) for value in values) else found, dtype=kind)
    operands = (evaluate(column, fit, kind) for column in zip(*(term.operands for term in terms), strict=True))
    with np.errstate(all="ignore"):
        found = _FUNCTIONS[first.operation, len(first.operands)](*operands)
    return np.asarray(found, dtype=kind)


def rounds_otherwise(terms: Sequence[Term], fit: Fit) -> NDArray:
    """Return at which lengths an expression comes out otherwise where it is calculated in 32 bits."""
    results: NDArray = evaluate(terms, fit) != evaluate(terms, fit, np.float32)
    return results


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _of_integers(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*operands: NDArray) -> Any:
        greatest = float(2**62)
        return function(*(np.nan_to_num(np.clip(item, -greatest, greatest)).astype(np.int64) for item in operands))

    return apply


#: Operations on arrays of float64, by the names of Python's methods and of functions of `math`: of one number, of two.
_OF_ONE: dict[str, Callable[[NDArray], Any]] = {
    "neg": np.negative,
    "pos": np.positive,
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "trunc": np.trunc,
    "round": np.rint,
    "invert": _of_integers(np.invert),
    "bit_length": lambda number: np.floor(np.log2(np.maximum(np.abs(number), 0.5))) + 1,
    "sqrt": np.sqrt,
    "isqrt": lambda number: np.floor(np.sqrt(number)),
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "exp": np.exp,
}
_OF_TWO: dict[str, Callable[[NDArray, NDArray], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "lshift": lambda number, bits: number * np.exp2(bits),
    "rshift": lambda number, bits: np.floor(number / np.exp2(bits)),
    "and": _of_integers(np.bitwise_and),
    "or": _of_integers(np.bitwise_or),
    "xor": _of_integers(np.bitwise_xor),
    "gcd": _of_integers(np.gcd),
    "min": np.minimum,
    "max": np.maximum,
}
_FUNCTIONS: dict[tuple[str, int], Callable[..., Any]] = {
    **{(name, 1): function for name, function in _OF_ONE.items()},
    **{(name, 2): function for name, function in _OF_TWO.items()},
}
