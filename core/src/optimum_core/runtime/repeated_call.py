"""A call like one before: same names, shapes and types. In one function, since that is what most calls are.

After an inference the processor's caches hold little of the interpreter, so that each further function, however
short, takes microseconds. What this function cannot decide it leaves to the whole path, which also words all errors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from optimum_core.plugins import Direct
from optimum_core.runtime.call_outputs import Answerer

Arrays = dict[str, Any]
#: From a call's arguments by name to its answer, or None where the whole path has to be taken.
Repeated = Callable[[dict[str, Any]], Any]

_ARRAY = np.ndarray


class Run(NamedTuple):
    """The functions that run a session: through its hook, and its own, where that may take the hook's place."""

    whole: Callable[[Arrays], Mapping[str, Any]]
    direct: Direct | None = None


#: Numbers of an array up to which Python compares them, and codes of `struct` by the bytes of a number.
_MOST_UNPACKED = 512
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_NO_DIRECT: Any = (None, {}, "", None)


def never(_arguments: dict[str, Any]) -> None:
    """Leave every call to the whole path."""


def repeated(  # noqa: C901 - one function, for its speed: see above
    seen: list[Any],
    ranges: tuple[tuple[str, int, int], ...],
    floats: tuple[str, ...],
    tensor: type | None,
    run: Run,
    answerer: Answerer,
) -> Repeated:
    """Return a function for calls like the one that was seen.

    Args:
        seen: name, shape and numpy type of each argument, in the order of the call.
        ranges: inputs whose values have bounds: name, least, greatest.
        floats: inputs that must hold neither NaN nor infinity.
        tensor: torch's class where tensors came; None: arrays.
        run: runs the session.
        answerer: makes the answer of the session's arrays.
    """
    as_torch = tensor is not None
    kind: Any = tensor or _ARRAY
    isfinite, whole = np.isfinite, run.whole
    types = dict(zip(seen[::3], seen[2::3], strict=True))
    direct, runners, backend, runner = run.direct or _NO_DIRECT
    made = answerer.made_directly(as_torch=as_torch) if direct is not None else None
    shapes = dict(zip(seen[::3], seen[1::3], strict=True))
    bounded = []
    for name, least, greatest in ranges:
        unsigned = _unsigned(types[name], least, greatest)
        bounded.append((name, least, greatest, unsigned, _unpacking(unsigned, shapes[name])))

    def call(arguments: dict[str, Any]) -> Any:  # noqa: C901
        arrays: Arrays = {}
        now: list[Any] = []
        for name, value in arguments.items():
            if type(value) is not kind:
                return None
            if as_torch:
                try:
                    value = value.numpy()
                except (RuntimeError, TypeError):  # it has gradients, is on a device, or has a type that numpy lacks
                    return None
            arrays[name] = value
            now += (name, value.shape, value.dtype)
        if now != seen:
            return None
        for name, least, greatest, unsigned, unpack in bounded:
            value = arrays[name]
            if unpack is not None:
                try:
                    if max(unpack(value)) > greatest:
                        return None
                except (BufferError, ValueError):  # its numbers do not lie one after the other
                    return None
                continue
            # `argmax` takes a third of the time of `max`, which goes through numpy's ufunc machinery.
            if unsigned is not None:
                value = value.view(unsigned)
            elif value.item(value.argmin()) < least:
                return None
            if value.item(value.argmax()) > greatest:
                return None
        for name in floats:
            finite = isfinite(arrays[name])
            if not finite.item(finite.argmin()):
                return None
        if made is None or runners.get(backend) is not runner:
            return answerer.answer(whole(arrays), as_torch=as_torch)
        names, convert, build = made
        try:
            results = direct(arrays)
        except (Exception, SystemExit):  # noqa: BLE001 - the whole path fails as well, and words the error
            return None
        if convert is None:
            return build(dict(zip(names, results, strict=True)))
        return build({name: convert(one) for name, one in zip(names, results, strict=True)})

    return call


def _unsigned(dtype: np.dtype[Any], least: int, greatest: int) -> np.dtype[Any] | None:
    """Return the type in which a value below zero is beyond the greatest, so that one search finds both; None: the
    least value has to be searched for."""
    if dtype.kind != "i" or not dtype.isnative or least != 0 or greatest > np.iinfo(dtype).max:
        return None
    return np.dtype(f"u{dtype.itemsize}")


def _unpacking(unsigned: np.dtype[Any] | None, shape: tuple[int, ...]) -> Callable[[Any], tuple[int, ...]] | None:
    """Return what reads the numbers of a short array as Python's; None: numpy finds the greatest in less time.

    After an inference, the first call of `argmax` takes 29 microseconds for 16 numbers, and this 18; for a second
    array 15 and 4. When everything is in the caches, `argmax` is the faster.
    """
    size = math.prod(shape)
    if unsigned is None or not 0 < size <= _MOST_UNPACKED:
        return None
    return struct.Struct(f"={size}{_CODES[unsigned.itemsize]}").unpack
