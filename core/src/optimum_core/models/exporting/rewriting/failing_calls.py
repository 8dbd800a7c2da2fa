"""Functions of torch that fail while a model is traced, and whose errors the model catches.

The tracer keeps what such a call had begun to write, and ends the process when it is done. So the error is turned into
one that no `except Exception` of the model catches, which ends the trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

from optimum_core.models.exporting.rewriting.traced_lengths import is_traced


class _FailedError(BaseException):
    """A function of torch failed during a trace, with this error."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class _Failing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        traced = is_traced()  # an error ends the state
        try:
            return func(*args, **(kwargs or {}))
        except Exception as error:
            if traced:
                raise _FailedError(error) from error
            raise


@contextmanager
def failing_calls_end_the_trace() -> Iterator[None]:
    """End a trace in which a function of torch fails with that error, though the model catches it."""
    try:
        with _Failing():
            yield
    except _FailedError as error:
        raise error.cause from None
