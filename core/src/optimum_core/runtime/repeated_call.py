"""A call like one before: same names, shapes and types. In one function, since that is what most calls are.

After an inference the processor's caches hold little of the interpreter, so that each further function, however
short, takes microseconds. What this function cannot decide it leaves to the whole path, which also words all errors.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optimum_core.plugins import Direct
from optimum_core.runtime.call_outputs import Answerer

#: By name, arrays of numpy, or tensors of torch for a session that takes these.
Inputs = dict[str, Any]
#: From a call's arguments by name to its answer, or None where the whole path has to be taken.
Repeated = Callable[[dict[str, Any]], Any]

_ARRAY = np.ndarray
log = logging.getLogger(__name__)


class SessionFunctions:
    """The functions that run a session: through its hook, and its own, where that may take the hook's place.

    Verification compares what the hook gives. So the session's own function is compared with it before its first answer
    is given, and not used again if they differ.
    """

    __slots__ = ("_lock", "direct", "is_compared", "whole")

    def __init__(self, whole: Callable[[Inputs], Mapping[str, Any]], direct: Direct | None = None) -> None:
        self.whole = whole
        self.direct = direct
        self.is_compared = False
        self._lock = threading.Lock()

    def compared(self, arrays: Inputs, names: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what the hook gives, after comparing what the session's own function gives with it.

        Args:
            arrays: the inputs.
            names: the outputs in the session's order.
        """
        direct, found = self.direct, None
        if direct is not None:
            try:
                found = direct.call(dict(arrays))
            except (Exception, SystemExit):  # the hook fails as well, and words the error
                log.debug("direct of a session of backend %r failed", direct.backend, exc_info=True)
        want = self.whole(arrays)
        if direct is None or found is None:
            return want
        same = len(found) == len(names) and all(map(_is_same, found, map(want.__getitem__, names)))
        with self._lock:  # what differed once in any thread stays out
            if not same:
                self.direct = None
            self.is_compared = self.direct is not None
        if not same:
            log.warning(
                "backend %r: `direct` of a session gave other outputs than `infer`, whose answers are given instead: "
                "calls take some microseconds more; report it to the maintainers of the plugin",
                direct.backend,
            )
        return want


def _is_same(have: Any, want: Any) -> bool:
    if type(have) is not _ARRAY or type(want) is not _ARRAY or have.dtype != want.dtype:
        return False
    return np.array_equal(have, want, equal_nan=want.dtype.kind in "fc")


#: Numbers of an array up to which Python compares them, and codes of `struct` by the bytes of a number.
_MOST_UNPACKED = 512
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_NO_DIRECT: Any = (None, {}, "", None)
_NO_RANGE: Any = (None, 0)
_NO_MAKING: Any = ((), None, None, None)


def never(_arguments: dict[str, Any]) -> None:
    """Leave every call to the whole path."""


def repeated(  # noqa: C901 - one function, for its speed: see above
    seen: list[Any],
    ranges: tuple[tuple[str, int, int], ...],
    floats: tuple[str, ...],
    tensor: type | None,
    functions: SessionFunctions,
    answerer: Answerer,
) -> Repeated:
    """Return a function for calls like the one that was seen.

    Args:
        seen: name, shape and numpy type of each argument, in the order of the call.
        ranges: inputs whose values have bounds: name, least, greatest.
        floats: inputs that must hold neither NaN nor infinity.
        tensor: torch's class where tensors came; None: arrays.
        functions: run the session.
        answerer: makes the answer of the session's arrays.
    """
    as_torch = tensor is not None
    kind: Any = tensor or _ARRAY
    isfinite, whole = np.isfinite, functions.whole
    shapes, types = dict(zip(seen[::3], seen[1::3], strict=True)), dict(zip(seen[::3], seen[2::3], strict=True))
    direct, runners, backend, runner = functions.direct or _NO_DIRECT
    making = answerer.made_directly(as_torch=as_torch) if direct is not None else None
    names, convert, build, cls = making or _NO_MAKING
    new: Any = cls and cls.__new__
    add, fill = OrderedDict.__setitem__, dict.__setitem__  # the second for names that are there
    is_pair = len(names) == 2
    first, second = (*names, None, None)[:2]
    unpacked, searched = dict[str, Any](), list[Any]()
    for name, least, greatest in ranges:
        unsigned = _unsigned(types[name], least, greatest)
        unpack = _unpacking(unsigned, shapes[name])
        if unpack is None:
            searched.append((name, least, greatest, unsigned))
        else:
            unpacked[name] = unpack, greatest
    wanted = [(name, shape, types[name], *unpacked.get(name, _NO_RANGE)) for name, shape in shapes.items()]
    count = len(wanted)

    def call(arguments: dict[str, Any]) -> Any:  # noqa: C901
        if len(arguments) != count:
            return None
        arrays: Inputs = {} if as_torch else arguments
        try:
            for name, shape, dtype, unpack, greatest in wanted:
                value = arguments[name]
                if type(value) is not kind:
                    return None
                if as_torch:
                    arrays[name] = value = value.numpy()
                if value.shape != shape or (value.dtype is not dtype and value.dtype != dtype):
                    return None
                if unpack is not None and max(unpack(value)) > greatest:
                    return None
        # A name is missing; a tensor has gradients, is on a device or of a type that numpy lacks; the numbers of an
        # array do not lie one after the other.
        except (KeyError, RuntimeError, TypeError, BufferError, ValueError):
            return None
        for name, least, greatest, unsigned in searched:
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
        if making is None or runners.get(backend) is not runner:
            return answerer.answer(whole(arrays), as_torch=as_torch)
        if not functions.is_compared:
            return answerer.answer(functions.compared(arrays, names), as_torch=as_torch)
        if new is not None:  # before the inference, after which each line of this would cost more
            made = new(cls)
            attributes = made.__dict__
            for name in names:
                attributes[name] = None
                add(made, name, None)
        try:
            results = direct(arrays)
        except (Exception, SystemExit):  # noqa: BLE001 - the whole path fails as well, and words the error
            return None
        if convert is not None:
            results = [*map(convert, results)]
        if new is None:
            return build(dict(zip(names, results, strict=True)))
        if is_pair:  # as most: the loop takes ten microseconds more
            attributes[first], attributes[second] = one, other = results
            fill(made, first, one)
            fill(made, second, other)
            return made
        for name, value in zip(names, results, strict=True):
            attributes[name] = value
            fill(made, name, value)
        return made

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
