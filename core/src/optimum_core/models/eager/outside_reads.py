"""Clocks, and the system's random bytes, read in a model's forward: a graph keeps what was read while it was traced.

A read may be without effect, as in code that measures itself. So one call is watched, and then the functions that it
read are replaced by ones that answer otherwise.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import eager_outputs

Arrays = Mapping[str, np.ndarray[Any, Any]]

_RANDOM_BYTES = os.urandom
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
#: Functions whose answer is a number that grows, and the units of their answers in a second.
_UNITS: dict[Any, int] = {
    getattr(time, name + ending): unit for name in _CLOCKS for ending, unit in (("", 1), ("_ns", 10**9))
}
#: Those whose answer cannot be replaced: it is no number, or they belong to a type.
_DATES = {
    function: f"time.{function.__name__}" for function in (time.localtime, time.gmtime, time.ctime, time.strftime)
}
_DATE_METHODS = ("now", "utcnow", "today")
#: What a replaced function answers: a clock this many seconds later, random bytes of this value alone.
_ANSWERS = ((3e7 + 31.37, 0), (9e8 + 8017.81, 255))


class OutsideReads:
    """Record of what a block has read from outside of it.

    Attributes:
        replaceable: functions, by the namespaces that hold them for those who called them.
        dates: names of functions whose answers cannot be replaced.
    """

    def __init__(self) -> None:
        self.replaceable: dict[Any, list[dict[str, Any]]] = {}
        self.dates: list[str] = []

    def watch(self, frame: Any, event: str, function: Any) -> None:
        """Note a call of a function of C, as `sys.setprofile` tells it."""
        if event != "c_call":
            return
        caller = frame.f_globals
        if _is_replaceable(function):
            self.replaceable.setdefault(function, []).append(caller)
        elif (name := _date(function)) and _package(caller) not in sys.stdlib_module_names:
            self.dates.append(name)


@contextmanager
def watched_reads() -> Iterator[OutsideReads]:
    """Yield what says after the block what it has read from outside."""
    found, before = OutsideReads(), sys.getprofile()
    sys.setprofile(found.watch)
    try:
        yield found
    finally:
        sys.setprofile(before)


def output_from_outside(module: Any, inputs: Arrays, outputs: Arrays) -> tuple[str, str] | None:
    """Return the name of an output that depends on what is read outside, and the function; None: none does.

    Where a date is read whose answer cannot be replaced, the first output counts.

    Args:
        outputs: those of an earlier call with these inputs.
    """
    with watched_reads() as reads:
        eager_outputs(module, inputs)
    if reads.dates:
        return next(iter(outputs)), reads.dates[0]
    for function, callers in reads.replaceable.items():
        for seconds, byte in _ANSWERS:
            with _replaced(function, callers, seconds, byte):
                again = eager_outputs(module, inputs)
            for name, want in outputs.items():
                if name not in again or not _is_equal(want, again[name]):
                    return name, f"{function.__module__}.{function.__name__}"
    return None


def _is_equal(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _is_replaceable(function: Any) -> bool:
    return isinstance(function, BuiltinFunctionType) and (function in _UNITS or function is _RANDOM_BYTES)


def _date(function: Any) -> str:
    """Return the name of a function that tells a date; "" for all others."""
    if not isinstance(function, BuiltinFunctionType):
        return ""
    owner = function.__self__
    if function.__name__ in _DATE_METHODS and isinstance(owner, type) and issubclass(owner, datetime.date):
        return f"{owner.__name__}.{function.__name__}"
    return _DATES.get(function, "")


def _package(namespace: Mapping[str, Any]) -> str:
    return str(namespace.get("__name__", "")).partition(".")[0]


def _owner(function: Any) -> Any:
    return os if function is _RANDOM_BYTES else time


@contextmanager
def _replaced(function: Any, callers: list[dict[str, Any]], seconds: float, byte: int) -> Iterator[None]:
    """Replace a function in its module and for those who called it, within this thread."""
    other = _other(function, seconds, byte)
    held = [
        (namespace, name)
        for namespace in (vars(_owner(function)), *callers)
        for name, value in namespace.items()
        if value is function
    ]
    for namespace, name in held:
        namespace[name] = other
    try:
        yield
    finally:
        for namespace, name in held:
            namespace[name] = function


def _other(function: Any, seconds: float, byte: int) -> Callable[..., Any]:
    """Return a function that answers in this thread what the system might answer at another time."""
    thread = threading.get_ident()

    def other(*arguments: Any) -> Any:
        answer = function(*arguments)
        if threading.get_ident() != thread:
            return answer
        if function is _RANDOM_BYTES:
            return bytes([byte]) * len(answer)
        return answer + type(answer)(seconds * _UNITS[function])

    return other
