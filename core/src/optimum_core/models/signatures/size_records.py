"""Sizes of tensors that record what the model's own code compares them with, while the eager model runs.

Sizes are integers then that report comparisons, and so are the results of their arithmetic. A size that is looked up in
a dictionary or a set is compared with the whole numbers there: Python itself compares it with none whose hash differs.
So is one that Python makes a plain number of, by `int` or `float`, with those in the code that does so.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import logging
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.calls import ask
from optimum_core.models.inputs.layouts import PICTURE, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import LONG
from optimum_core.models.signatures.followed_numbers import (
    FUNCTIONS,
    ROUNDED,
    Size,
    extreme_followed,
    function_followed,
    term_of,
)
from optimum_core.models.signatures.size_terms import Term, calculated

log = logging.getLogger(__name__)

#: A comparison: file, line, operator, and how many of these came before it in the same run.
Site = tuple[str, int, str, int]
#: Its two sides.
Sides = tuple[Term, Term]
Comparisons = dict[Site, Sides]
#: Returns the comparisons of a run at some lengths, other axes as traced.
ComparisonsAt = Callable[[Mapping[str, int]], Comparisons]

#: Functions that return a size of a tensor, or a product of sizes.
_SIZES = (torch.Tensor.size, torch.Tensor.numel, torch.numel, torch.Tensor.nelement, torch.Tensor.stride)
#: Most numbers in one container that a size is compared with; a vocabulary has more, and maps no lengths.
_MOST_KEYS = 256
#: Seconds after which a run at much greater lengths than the traced ones is stopped: cases that take longer are not
#: compared, and most comparisons of lengths come before the first layer computes.
_PATIENCE = 1.0
#: Numbers below this stand in any code.
_COMMON = 3


class _EnoughError(Exception):
    """A run was stopped after `_PATIENCE` seconds."""


class RecordingShape(tuple[int, ...]):
    """A tensor's shape, as `torch.Size`, which would turn its items into plain integers."""

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of values."""
        return math.prod(self)


class _SizeRecorder(TorchFunctionMode):
    """While it is active, sizes of tensors record the comparisons that Python code makes with them.

    Args:
        patience: seconds after which the next call of a function of torch is refused.
    """

    def __init__(self, patience: float = math.inf) -> None:
        super().__init__()
        self._patience, self._start, self._busy = patience, time.perf_counter(), time.process_time()
        self.compared: Comparisons = {}
        self._seen: Counter[tuple[str, int, str]] = Counter()
        self._listener = _Listener(self._record)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A machine that was held up says nothing: so the lesser of wall-clock and CPU time.
        if min(time.perf_counter() - self._start, time.process_time() - self._busy) > self._patience:
            raise _EnoughError
        for term in _rounded(func, args, kwargs or {}):
            self._record(ROUNDED, term, Term(0), sys._getframe(1))
        found = func(*args, **(kwargs or {}))
        if type(found) is torch.Size:
            return RecordingShape(Size(size, self._listener) for size in found)
        return Size(found, self._listener) if type(found) is int and func in _SIZES else found

    def _record(self, name: str, left: Term, right: Term, frame: FrameType) -> None:
        place = (frame.f_code.co_filename, frame.f_lineno, name)
        self.compared[(*place, self._seen[place])] = (left, right)
        self._seen[place] += 1


def _rounded(func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Iterator[Term]:
    """Yield the lengths of its result that a function of torch itself rounds from numbers."""
    if func is torch.nn.functional.interpolate and args:
        sizes, scales = args[0].shape[2:], args[2] if len(args) > 2 else options.get("scale_factor")
        each = scales if isinstance(scales, tuple | list) else [scales] * len(sizes)
        for size, scale in zip(sizes, each, strict=False):
            if isinstance(scale, float):
                yield calculated(0, "floor", calculated(0.0, "mul", Term(size), term_of(scale)))
    elif func is torch.arange and any(isinstance(number, float) for number in args):
        start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        span = calculated(0.0, "sub", term_of(end), term_of(start))
        yield calculated(0, "ceil", calculated(0.0, "truediv", span, term_of(step)))


class _Listener:
    """Hears of comparisons, and finds the code that makes them: what called the method that calls this one."""

    def __init__(self, record: Callable[[str, Term, Term, FrameType], None]) -> None:
        self._record = record

    def compared(self, name: str, left: Term, right: Term) -> None:
        self._record(name, left, right, sys._getframe(2))

    def looked_up(self, name: str, size: Term) -> None:
        frame = sys._getframe(2)
        for number in sorted(_numbers_within(frame)):
            self._record(name, size, Term(number), frame)


def _numbers_within(frame: FrameType) -> set[int]:
    """Return the whole numbers among the keys of dictionaries and items of sets that code can look a size up in, and
    those that it builds such of."""
    variables = [*frame.f_locals.values(), *map(frame.f_globals.get, frame.f_code.co_names)]
    parts = (value for variable in variables for value in _attributes(variable))
    held = (value for value in itertools.chain(variables, parts) if isinstance(value, dict | set | frozenset))
    constants = _constants(frame.f_code)
    return set(itertools.chain(constants, *map(_whole, held)))


def _attributes(variable: Any) -> Collection[Any]:
    try:
        return list(vars(variable).values())
    except Exception:  # noqa: BLE001 - it has none, or code of the user's makes them
        return ()


def _constants(code: CodeType) -> set[int]:
    groups = (item for item in code.co_consts if isinstance(item, tuple | frozenset))
    return {*_whole(code.co_consts), *itertools.chain(*map(_whole, groups))}


def _whole(values: Collection[Any]) -> list[int]:
    return [value for value in values if type(value) is int and value >= _COMMON] if len(values) <= _MOST_KEYS else []


_TENSORS = (torch.Tensor, torch.nn.Parameter)
_LOCK = threading.Lock()
_BLOCKS: list[Any] = []  # Python's own functions, once for each block that runs


@contextmanager
def functions_followed() -> Iterator[None]:
    """Let Python's functions of numbers follow sizes while the block runs: `len` of a tensor gives its size as a mode
    sees it, and those of `math`, which take plain numbers, what follows them.

    Several threads may be in such blocks: the last one to leave puts Python's own functions back.
    """
    with _LOCK:
        own = _BLOCKS[0] if _BLOCKS else _own_functions()
        _BLOCKS.append(own)
        if len(_BLOCKS) == 1:
            for (module, name), function in own.items():
                setattr(module, name, _following(name, function))
    try:
        yield
    finally:
        with _LOCK:
            _BLOCKS.pop()
            if not _BLOCKS:
                for (module, name), function in own.items():
                    setattr(module, name, function)


def _following(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    make = _FOLLOWED.get(name)
    return function_followed(name, function) if make is None else make(function)


def _own_functions() -> dict[tuple[ModuleType, str], Callable[..., Any]]:
    importlib.import_module("torch._dynamo")  # which keeps tables of these functions; exporters import it later anyway
    places = [*((builtins, name) for name in _FOLLOWED), *((math, name) for name in FUNCTIONS)]
    return {(module, name): getattr(module, name) for module, name in places}


def _length(own: Callable[[Any], int]) -> Callable[[Any], int]:
    def length(values: Any, /) -> int:
        is_tensor = type(values) in _TENSORS and values.dim() > 0
        found: int = values.shape[0] if is_tensor else own(values)
        return found

    return length


#: Python's own functions by name, each with what makes one that follows sizes of it.
_FOLLOWED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "len": _length,
    "min": partial(extreme_followed, "min"),
    "max": partial(extreme_followed, "max"),
}


def comparisons_of(module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int]) -> Comparisons:
    """Return the comparisons of one run; those until it failed if the eager model refuses the lengths, or until it was
    stopped because it takes long.

    Where heights or widths vary, remainders are left out: sizes that no patch and no window divides are compared with
    eager in any case.
    """
    is_long = any(length > max(LONG, 4 * layout.lengths[axis]) for axis, length in lengths.items())
    recorder = _SizeRecorder(_PATIENCE if is_long else math.inf)
    try:
        inputs = draw(layout, Case(name="sizes", lengths=lengths, padding="none"), arrays)
        with functions_followed(), recorder:
            ask(module, inputs)
    except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
        log.debug("sizes at %s: %r", dict(lengths), error)
    if not set(lengths) & set(PICTURE):
        return recorder.compared
    return {site: sides for site, sides in recorder.compared.items() if not _is_of_remainders(site, sides)}


def _is_of_remainders(site: Site, sides: Sides) -> bool:
    return site[2] == "__mod__" or any(side.uses("mod") for side in sides)


def cached_comparisons(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> ComparisonsAt:
    """Return a function from lengths of axes, others as traced, to the comparisons of a run, each made once."""
    known: dict[tuple[frozenset[tuple[str, int]], bool], Comparisons] = {}

    def run(lengths: Mapping[str, int]) -> Comparisons:
        # The traced lengths are those of every axis; remainders count by the axes that are asked for.
        other = {axis: length for axis, length in lengths.items() if length != layout.lengths[axis]}
        key = frozenset(other.items()), bool(set(lengths) & set(PICTURE))
        if key not in known:
            known[key] = comparisons_of(module, layout, arrays, lengths)
        return known[key]

    return run
