"""Conversion of a program to fp16 by coremltools' own pass, with two changes: mask values stay finite, and operators
with marked names stay in 32 bits.

Models build masks from the lowest fp32 number, -3.4e38. coremltools turns it into minus infinity, and a row that holds
only that is NaN after softmax, as is an infinity times zero. Here it becomes -57344: far below any score, so that its
weight is exactly 0 after softmax; scores below 16 leave it as it is, as in 32 bits, and scores down to -8000 keep it
finite. Two such masks added up are minus infinity, as they are in 32 bits. Where a number is only a bound or an operand
of a comparison, infinity is right, and stays.
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
#: Prefix of the names of operators that stay in 32 bits.
EXACT = "in_32_bits_"
#: coremltools treats numbers from here on as infinite; below it and beyond fp16, it keeps the operator in 32 bits.
_HUGE = 1e38
_BOUNDING = frozenset(
    ("clip", "maximum", "minimum", "pad", "greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
)
_CAST = "common::add_fp16_cast"
_PASSES = (_CAST, "common::cast_optimization", "common::const_elimination", "common::dead_code_elimination")


class _FiniteCast(add_fp16_cast):  # type: ignore[misc]  # coremltools has no types
    """coremltools' pass of that name, run after huge constants were replaced by finite ones."""

    def apply(self, prog: Any) -> None:
        for function in prog.functions.values():
            _bring_near(function)
        super().apply(prog)

    def is_valid_op(self, op: Any) -> bool:
        return not str(op.name).startswith(EXACT) and bool(super().is_valid_op(op))


@contextmanager
def halving() -> Iterator[None]:
    """Make coremltools convert to fp16 this way within the block, then restore it. One conversion at a time."""
    before = PASS_REGISTRY.passes[_CAST]
    PASS_REGISTRY.passes[_CAST] = _FiniteCast
    try:
        yield
    finally:
        PASS_REGISTRY.passes[_CAST] = before


def passes() -> list[Any]:
    """Return the passes that `convert` runs to compute in fp16, in order; to be requested and run within `halving`."""
    return [PASS_REGISTRY[name] for name in _PASSES]


def _bring_near(block: Any) -> None:
    """Replace huge constants input by input: another operator that uses the same constant as a bound keeps it."""
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
