"""A call like one before: same names, shapes and types. In one function, since that is what most calls are.

After an inference the processor's caches hold little of the interpreter, so that each further function, however
short, takes microseconds. What this function cannot decide it leaves to the whole path, which also words all errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimum_core.runtime.call_outputs import Answerer

Arrays = dict[str, Any]
#: From a call's arguments by name to its answer, or None where the whole path has to be taken.
Repeated = Callable[[dict[str, Any]], Any]

_ARRAY = np.ndarray


def never(_arguments: dict[str, Any]) -> None:
    """Leave every call to the whole path."""


def repeated(  # noqa: C901 - one function, for its speed: see above
    seen: list[Any],
    ranges: tuple[tuple[str, int, int], ...],
    floats: tuple[str, ...],
    tensor: type | None,
    run: Callable[[Arrays], Mapping[str, Any]],
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
    isfinite = np.isfinite
    types = dict(zip(seen[::3], seen[2::3], strict=True))
    bounded = [(name, least, greatest, _unsigned(types[name], least, greatest)) for name, least, greatest in ranges]

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
        for name, least, greatest, unsigned in bounded:
            value = arrays[name]
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
        return answerer.answer(run(arrays), as_torch=as_torch)

    return call


def _unsigned(dtype: np.dtype[Any], least: int, greatest: int) -> np.dtype[Any] | None:
    """Return the type in which a value below zero is beyond the greatest, so that one search finds both; None: the
    least value has to be searched for."""
    if dtype.kind != "i" or not dtype.isnative or least != 0 or greatest > np.iinfo(dtype).max:
        return None
    return np.dtype(f"u{dtype.itemsize}")
