"""Clocks, the system's random bytes, the numbers of the process and of torch's threads, read in a model's forward: a
graph keeps what was read while it was traced.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from types import BuiltinFunctionType
from typing import Any

import torch

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.eager.randomness import is_equal
from optimum_core.types.arrays import ArrayMapping

_RANDOM_BYTES, _NOW, _LOCAL, _STRFTIME = os.urandom, time.time, time.localtime, time.strftime
_CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
#: Functions whose answer is a number that grows, and the units of their answers in a second.
_UNITS: dict[Any, float] = {
    getattr(time, name + ending): unit for name in _CLOCKS for ending, unit in (("", 1), ("_ns", 10**9))
}
_THREADS: Any = torch.get_num_threads
_UNITS[_THREADS] = 1e-7  # some more threads: what is replaced may share work among them
_PROCESSES: tuple[Any, ...] = (os.getpid, os.getppid)
_UNITS |= dict.fromkeys(_PROCESSES, 1e-3)
#: Those that tell the time as a date, by the number of arguments with which they tell another.
_DATES: dict[Any, int] = {time.localtime: 1, time.gmtime: 1, time.ctime: 1, time.strftime: 2}
#: Those whose answer cannot be replaced: methods of the types of `datetime`.
_DATE_METHODS = ("now", "utcnow", "today")
#: What a replaced function answers: a clock this many seconds later, at each hour of other days, and random bytes of
#: this value alone.
_ANSWERS = tuple((86_400 * (347 + 440 * hour) + 3_737.37 * hour + 31.37, 255 * (hour % 2)) for hour in range(24))
#: How many of these where only Python's own library reads, as to log.
_FEW = 2


class OutsideReads:
    """Record of what a block has read from outside of it.

    Attributes:
        replaceable: functions, by the namespaces that hold them for those who called them.
        others: names of functions whose answers cannot be replaced.
    """

    def __init__(self) -> None:
        self.replaceable: dict[Any, list[dict[str, Any]]] = {}
        self.others: list[str] = []

    def watch(self, frame: Any, event: str, function: Any) -> None:
        """Note a call of a function of C, as `sys.setprofile` tells it."""
        if event != "c_call":
            return
        caller = frame.f_globals
        if _is_replaceable(function):
            callers = self.replaceable.setdefault(function, [])
            if not any(known is caller for known in callers):
                callers.append(caller)
        elif (name := _date_method(function)) and _package(caller) not in sys.stdlib_module_names:
            self.others.append(name)


def reads_of(call: Callable[[], Any]) -> OutsideReads:
    """Return what a call reads from outside.

    Where a profiler watches this thread, another thread makes the call: `sys.setprofile` takes no profiler back that is
    written in C.
    """
    found = OutsideReads()

    def watched() -> None:
        sys.setprofile(found.watch)
        try:
            call()
        finally:
            sys.setprofile(None)

    if sys.getprofile() is None:
        watched()
    else:
        with ThreadPoolExecutor(1) as other:
            other.submit(copy_context().run, watched).result()
    return found


def output_from_outside(module: Any, inputs: ArrayMapping, outputs: ArrayMapping) -> tuple[str, str] | None:
    """Return the name of an output that depends on what is read outside, and the function; None: none does.

    The name is empty where a date is read whose answer cannot be replaced, so that nothing shows whether one does.

    Args:
        outputs: those of an earlier call with these inputs.
    """
    reads = reads_of(partial(eager_outputs, module, inputs))
    for function, callers in reads.replaceable.items():
        own = all(_package(caller) in sys.stdlib_module_names for caller in callers)
        for seconds, byte in _ANSWERS[:_FEW] if own else _ANSWERS:
            with _replaced(function, callers, seconds, byte):
                again = _answer(module, inputs)
            for name, want in outputs.items():
                if name not in again or not is_equal(want, again[name]):
                    return name, f"{_owner(function).__name__}.{function.__name__}"
    return ("", reads.others[0]) if reads.others else None


def _answer(module: Any, inputs: ArrayMapping) -> ArrayMapping:
    """Return the outputs; none where the model fails, as one may whose time is over."""
    try:
        return eager_outputs(module, inputs)
    except Exception:  # noqa: BLE001 - code of the model's
        return {}


def _is_replaceable(function: Any) -> bool:
    return isinstance(function, BuiltinFunctionType) and (
        function in _UNITS or function in _DATES or function is _RANDOM_BYTES
    )


def _date_method(function: Any) -> str:
    """Return the name of a method that tells the date; "" for all other functions."""
    if not isinstance(function, BuiltinFunctionType) or function.__name__ not in _DATE_METHODS:
        return ""
    owner: Any = function.__self__
    is_date = isinstance(owner, type) and issubclass(owner, datetime.date)
    return f"{owner.__name__}.{function.__name__}" if is_date else ""


def _package(namespace: Mapping[str, Any]) -> str:
    return str(namespace.get("__name__", "")).partition(".")[0]


def _owner(function: Any) -> Any:
    return {_RANDOM_BYTES: os, _THREADS: torch, **dict.fromkeys(_PROCESSES, os)}.get(function, time)


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
        if (given := _DATES.get(function)) is not None:
            return answer if len(arguments) >= given else function(*arguments, _later(function, seconds))
        return answer + type(answer)(seconds * _UNITS[function])

    return other


def _later(function: Any, seconds: float) -> Any:
    """Return the last argument with which a function tells the date that many seconds later."""
    later = _NOW() + seconds
    return _LOCAL(later) if function is _STRFTIME else later
