"""Faster conversions by coremltools, of the same result.

- For a reshape with variable axes, coremltools solves "the volume of the input is that of the output" with sympy, again
  for every such operator and in every graph pass that rebuilds one. Within a model the same few equations return,
  with other names of the variable axes.
- After each of a hundred graph passes, it looks through the whole program for inconsistencies. Here it does so after
  the passes that remove dead code, and before a program is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Solve = Callable[[Any, Any], list[Any]]
#: By the volume of the input and the shape of the output, both with symbols renamed: the shape that was found.
_SOLVED: dict[tuple[Any, ...], list[Any]] = {}


@contextlib.contextmanager
def faster_conversion() -> Iterator[None]:
    """Make conversions faster within the block. One at a time (`coremltools_adapter.CONVERSION`)."""
    from coremltools.converters.mil.mil import Program
    from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape

    solve, validate = reshape.enforce_volumetric_constraint, Program.validate
    reshape.enforce_volumetric_constraint = staticmethod(_remembering(solve))
    Program.validate = _seldom(validate)
    try:
        yield
    finally:
        reshape.enforce_volumetric_constraint = staticmethod(solve)
        Program.validate = validate


def _seldom(validate: Callable[..., None]) -> Callable[..., None]:
    def validate_where_it_counts(program: Any, check_essential_scope: bool | None = False) -> None:
        if check_essential_scope:  # after the removal of dead code, and before writing
            validate(program, check_essential_scope=True)

    return validate_where_it_counts


def _remembering(solve: Solve) -> Solve:
    def solution(left_volume: Any, inshape: Any) -> list[Any]:
        forth = _renaming(left_volume, *inshape)
        volume, *shape = (_renamed(item, forth) for item in (left_volume, *inshape))
        key = (volume, *shape)
        if key not in _SOLVED:
            _SOLVED[key] = solve(volume, shape)
        back = {new: old for old, new in forth.items()}
        return [_renamed(item, back) for item in _SOLVED[key]]

    return solution


def _renaming(*items: Any) -> dict[Any, Any]:
    """Return new symbols for those in the expressions, numbered from 0 in the order in which they were made."""
    import sympy

    found = {symbol for item in items if isinstance(item, sympy.Basic) for symbol in item.free_symbols}
    ordered = sorted(found, key=lambda symbol: (len(symbol.name), symbol.name))
    return {symbol: sympy.Symbol(f"v{number}", **symbol.assumptions0) for number, symbol in enumerate(ordered)}


def _renamed(item: Any, names: dict[Any, Any]) -> Any:
    return item.xreplace(names) if hasattr(item, "xreplace") else item
