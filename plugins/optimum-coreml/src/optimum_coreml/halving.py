"""Bringing a program to 16 bits by coremltools' own pass, with two changes: numbers that stand for "never" stay finite,
and operators whose names say so stay in 32 bits.

Masks are made of the least number that 32 bits have, -3.4e38. coremltools turns it into minus infinity, and a row of
nothing else is NaN after softmax, as is an infinity times zero. Here it becomes -57344: far below any score, so that
its weight is exactly 0 after softmax; scores below 16 leave it as it is, as in 32 bits, and scores down to -8000 keep
it finite. Two such masks added up are minus infinity, as they are in 32 bits. Where a number only bounds or is compared
with, infinity is right, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder
from coremltools.converters.mil.mil.passes.defs.quantization import add_fp16_cast
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

mb: Any = Builder
NEVER = np.float32(57344)
#: What names of operators begin with that are to stay in 32 bits.
EXACT = "in_32_bits_"
#: From here on, coremltools takes a number for infinite; below it, beyond 16 bits, it leaves an operator in 32.
_HUGE = 1e38
_BOUNDING = frozenset(
    ("clip", "maximum", "minimum", "pad", "greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
)
_CAST = "common::add_fp16_cast"
_PASSES = (_CAST, "common::cast_optimization", "common::const_elimination", "common::dead_code_elimination")


class _FiniteCast(add_fp16_cast):  # type: ignore[misc]  # coremltools has no types
    """The pass of that name, after huge constants were brought near."""

    def apply(self, prog: Any) -> None:
        for function in prog.functions.values():
            _bring_near(function)
        super().apply(prog)

    def is_valid_op(self, op: Any) -> bool:
        return not str(op.name).startswith(EXACT) and bool(super().is_valid_op(op))


@contextmanager
def halving() -> Iterator[None]:
    """Within, coremltools halves programs so; on the way out as before. One conversion at a time."""
    before = PASS_REGISTRY.passes[_CAST]
    PASS_REGISTRY.passes[_CAST] = _FiniteCast
    try:
        yield
    finally:
        PASS_REGISTRY.passes[_CAST] = before


def passes() -> list[Any]:
    """What `convert` runs to compute in 16-bit floats, in its order; to be asked for and run within `halving`."""
    return [PASS_REGISTRY[name] for name in _PASSES]


def _bring_near(block: Any) -> None:
    """Change what operators are given, one by one: another that bounds by the same constant keeps it."""
    with block:
        for operation in list(block.operations):
            for inner in operation.blocks:
                _bring_near(inner)
            if operation.op_type in _BOUNDING or operation.op_type == "const":
                continue
            for given in operation.inputs.values():
                for var in given if isinstance(given, list | tuple) else [given]:
                    if _is_huge(var):
                        _replace(block, operation, var)


def _is_huge(var: Any) -> bool:
    constant = var.op is not None and var.op.op_type == "const" and var.is_tensor_or_scalar_of(dtype="fp32")
    return bool(constant and _places(var.val).any())


def _places(value: Any) -> Any:
    return np.isfinite(value) & (np.abs(value) >= _HUGE)


def _replace(block: Any, operation: Any, var: Any) -> None:
    value = np.asarray(var.val)
    near = np.where(_places(value), np.sign(value) * NEVER, value).astype(np.float32)
    constant = mb.const(val=near if near.ndim else near[()], name=f"{var.name}_near", before_op=operation)
    block.replace_uses_of_var_after_op(
        anchor_op=constant.op, old_var=var, new_var=constant, end_op=operation, force_replace=True
    )
