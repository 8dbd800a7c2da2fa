"""Rounding of lengths in Python, kept in a trace.

`math.ceil(length / experts)` turns a traced length into a number, which the trace then keeps for all others: NLLB-MoE
computes so how many tokens an expert takes. Quotients of whole numbers below 2**24 round alike in torch's 32 bits and
in Python's 64. Products with fractions do not (0.7 * 90 is 63 or just above): these become numbers of the samples, and
comparisons on other lengths show it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_ROUNDED: list[tuple[Any, Any]] = []  # Python's own functions, once for each block that runs


@contextmanager
def traced_rounding() -> Iterator[None]:
    """Let `math.ceil` and `math.floor` of traced lengths give traced lengths while the block runs.

    Several threads may be in such blocks: the last one to leave puts Python's own functions back.
    """
    with _LOCK:
        own = _ROUNDED[0] if _ROUNDED else (math.ceil, math.floor)
        _ROUNDED.append(own)
        if len(_ROUNDED) == 1:
            math.ceil, math.floor = _known_to_scripts(_CEIL, "aten::ceil"), _known_to_scripts(_FLOOR, "aten::floor")
    try:
        yield
    finally:
        with _LOCK:
            _ROUNDED.pop()
            if not _ROUNDED:
                math.ceil, math.floor = own


def is_traced() -> bool:
    """Whether `torch.jit.trace`, which the TorchScript exporter uses too, records what is computed now."""
    return torch._C._get_tracing_state() is not None


def _rounding(of_numbers: Callable[[Any], int], of_tensors: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def rounded(number: Any, /) -> Any:
        if not isinstance(number, torch.Tensor) or not is_traced():
            return of_numbers(number)
        if not number.is_floating_point():
            return number
        return of_tensors(number).to(torch.int64) if _is_quotient(number) else of_numbers(number)

    return rounded


_CEIL, _FLOOR = _rounding(math.ceil, torch.ceil), _rounding(math.floor, torch.floor)


def _known_to_scripts(function: Any, operator: str) -> Any:
    """Return the function, after telling torch.jit which of its operators it is: what a model compiles while it is
    traced, such as `interpolate`, calls it by Python's name."""
    torch.jit._builtins._register_builtin(function, operator)
    return function


def _is_quotient(number: torch.Tensor) -> bool:
    """Whether a traced number is the quotient of two whole ones."""
    node = torch._C._get_value_trace(number).node()  # type: ignore[attr-defined]
    parts = list(node.inputs())
    return node.kind() == "aten::div" and len(parts) == 2 and all(_is_whole(part) for part in parts)


def _is_whole(value: Any) -> bool:
    kind = value.type()
    return bool(kind.kind() == "IntType" or (kind.kind() == "TensorType" and kind.scalarType() == "Long"))
