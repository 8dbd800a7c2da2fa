"""Calls of the eager model with numbers that it may count up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.eager.operator_watch import OperatorWatch
from optimum_core.models.eager.time_limit import time_limit

#: Seconds of CPU time for a call.
_PATIENCE = 10.0
#: Number that a model may count up to.
COUNTED = 2**14
_WHOLE = frozenset({torch.int32, torch.int64})
#: Functions that read whole numbers in order to refuse some.
_CHECKING = frozenset({torch.nn.functional.one_hot})


#: Functions that take whole numbers for places in memory, and check none: a wrong one ends the process.
_UNCHECKED = frozenset({torch.nn.functional.ctc_loss, torch.ctc_loss})


class ReadsNumberError(Exception):
    """A model reads a large whole number of a tensor in Python, or reads memory by such numbers without a check."""


class _NoCounting(OperatorWatch):
    """Raises where a large whole number is read, except in functions that only check it."""

    checks = False

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        made = func(*args, **kwargs)
        reads = func is torch.ops.aten._local_scalar_dense.default and not self.checks
        if reads and type(made) is int and abs(made) > COUNTED:
            raise ReadsNumberError
        return made


class _Checking(TorchFunctionMode):
    def __init__(self, guard: _NoCounting) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _UNCHECKED or (func is torch.Tensor.tolist and not self._guard.checks and _has_large(args[0])):
            raise ReadsNumberError
        before, self._guard.checks = self._guard.checks, self._guard.checks or func in _CHECKING
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._guard.checks = before


def _has_large(tensor: torch.Tensor) -> bool:
    return tensor.dtype in _WHOLE and bool(((tensor > COUNTED) | (tensor < -COUNTED)).any())


@contextmanager
def without_counting() -> Iterator[None]:
    """Raise `ReadsNumberError` within the block where a model reads a large whole number in Python."""
    guard = _NoCounting()
    with guard, _Checking(guard):
        yield


def outputs_unwatched(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the eager model's outputs as a caller gets them, once `outputs_in_time` has found that the call ends and
    may be made: torch leaves its fast path for encoders, with other values at padding, where its functions are watched.

    Raises: as `outputs_in_time`.
    """
    outputs_in_time(module, inputs)
    return eager_outputs(module, inputs)


def outputs_in_time(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the eager model's outputs.

    Raises:
        ExportError: the call does not end; a model's own errors are passed on.
        ReadsNumberError: the model reads a large whole number in Python, and may count up to it, or memory by it.
    """
    with without_counting(), time_limit(_PATIENCE, f"model {type(module).__name__}", "keep its inputs small"):
        return eager_outputs(module, inputs)
