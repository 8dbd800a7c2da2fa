"""Sizes of tensors that record what the model's own code compares them with, while the eager model runs.

Sizes are integers then that record comparisons, and so are the results of their arithmetic. A size that is looked up in
a dictionary or a set is compared with the whole numbers there: Python itself compares it with none whose hash differs.
"""

from __future__ import annotations

import builtins
import itertools
import logging
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.calls import ask
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import PICTURE

log = logging.getLogger(__name__)

#: A comparison: file, line, operator, and how many of these came before it in the same run.
Site = tuple[str, int, str, int]
#: The two sides of each comparison.
Compared = dict[Site, tuple[int, int]]

_COMPARISONS = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__mod__")
#: Functions that return a size of a tensor, or a product of sizes.
_SIZES = (torch.Tensor.size, torch.Tensor.numel, torch.numel, torch.Tensor.nelement, torch.Tensor.stride)
_KEEPING = ("add", "radd", "sub", "rsub", "mul", "rmul", "floordiv", "rfloordiv", "neg", "pos", "abs")
#: Most numbers in one container that a size is compared with; a vocabulary has more, and maps no lengths.
_MOST_KEYS = 256
#: Numbers below this stand in any code.
_COMMON = 3


class Shape(tuple[int, ...]):
    """A tensor's shape, as `torch.Size`, which would turn its items into plain integers."""

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of values."""
        return math.prod(self)


class _Recorder(TorchFunctionMode):
    """While it is active, sizes of tensors record the comparisons that Python code makes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: Compared = {}
        self._seen: Counter[tuple[str, int, str]] = Counter()
        self._size = _size_class(self._record, self._look_up)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if type(found) is torch.Size:
            return Shape(map(self._size, found))
        return self._size(found) if type(found) is int and func in _SIZES else found

    def _record(self, name: str, left: int, right: int, frame: FrameType | None = None) -> None:
        code = frame or sys._getframe(2)
        place = (code.f_code.co_filename, code.f_lineno, name)
        self.compared[(*place, self._seen[place])] = (left, right)
        self._seen[place] += 1

    def _look_up(self, size: int) -> None:
        frame = sys._getframe(2)
        for number in sorted(_numbers_within(frame)):
            self._record("__eq__", size, number, frame)


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


def _size_class(record: Callable[[str, int, int], None], look_up: Callable[[int], None]) -> type[int]:
    """Return a class of integers that record comparisons, as do the results of their arithmetic."""

    def comparing(name: str) -> Callable[[Any, Any], Any]:
        plain = getattr(int, name)

        def compare(self: Any, other: Any) -> Any:
            if isinstance(other, int):
                record(name, int(self), int(other))
            return plain(self, other)

        return compare

    def keeping(name: str) -> Callable[..., Any]:
        plain = getattr(int, name)

        def calculate(self: Any, *others: Any) -> Any:
            found = plain(self, *others)
            return made(found) if type(found) is int else found

        return calculate

    def is_set(self: Any) -> bool:
        record("__ne__", int(self), 0)
        return int(self) != 0

    def hashed(self: Any) -> int:
        look_up(int(self))
        return int.__hash__(self)

    def divided(self: Any, other: Any) -> Any:
        found = int.__truediv__(self, other)
        return ratio(found, int(self), int(other)) if isinstance(other, int) and int(self) >= 0 < int(other) else found

    def dividing(self: Any, other: Any) -> Any:
        found = int.__rtruediv__(self, other)
        return ratio(found, int(other), int(self)) if isinstance(other, int) and int(other) >= 0 < int(self) else found

    kept = {f"__{name}__": keeping(f"__{name}__") for name in _KEEPING}
    compared = {name: comparing(name) for name in _COMPARISONS}
    others = {"__bool__": is_set, "__hash__": hashed, "__truediv__": divided, "__rtruediv__": dividing}
    made = type("Size", (int,), {**kept, **compared, **others})
    ratio = _ratio_class(record, made)
    return made


def _ratio_class(record: Callable[[str, int, int], None], made: type[int]) -> type[Any]:
    """Return a class of floats, quotients of two whole numbers, that record comparisons of these.

    A quotient above / below is less than a number as `above` is less than below times the number, rounded up.
    """

    def comparing(name: str, rounding: Callable[[float], int]) -> Callable[[Any, Any], Any]:
        plain = getattr(float, name)

        def compare(self: Any, other: Any) -> Any:
            if isinstance(other, int | float) and math.isfinite(scaled := other * self.below):
                record(name, self.above, rounding(scaled))
            return plain(self, other)

        return compare

    class Ratio(float):
        def __new__(cls, value: float, above: int, below: int) -> Self:
            found = super().__new__(cls, value)
            found.above, found.below = above, below
            return found

        above: int
        below: int
        __hash__ = float.__hash__

        def __ceil__(self) -> int:
            return made(-(-self.above // self.below))

        def __floor__(self) -> int:
            return made(self.above // self.below)

    roundings: Mapping[str, Callable[[float], int]] = {
        "__lt__": math.ceil, "__ge__": math.ceil, "__le__": math.floor, "__gt__": math.floor, "__eq__": round,
    }  # fmt: skip
    for name, rounding in roundings.items():
        setattr(Ratio, name, comparing(name, rounding))
    return Ratio


_TENSORS = (torch.Tensor, torch.nn.Parameter)
_LOCK = threading.Lock()
_BLOCKS: list[Any] = []  # Python's own function, once for each block that runs


@contextmanager
def _lengths_recorded() -> Iterator[None]:
    """Let `len` of a tensor give its size as a mode sees it while the block runs; Python makes a plain integer of it.

    Several threads may be in such blocks: the last one to leave puts Python's own function back.
    """

    def length(values: Any, /) -> int:
        is_tensor = type(values) in _TENSORS and values.dim() > 0
        found: int = values.shape[0] if is_tensor else own(values)
        return found

    with _LOCK:
        own = _BLOCKS[0] if _BLOCKS else builtins.len
        _BLOCKS.append(own)
        if len(_BLOCKS) == 1:
            builtins.len = length
    try:
        yield
    finally:
        with _LOCK:
            _BLOCKS.pop()
            if not _BLOCKS:
                builtins.len = own


def compared(module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int]) -> Compared:
    """Return the comparisons of one run; those until it failed if the eager model refuses the lengths.

    Where heights or widths vary, remainders are left out: sizes that no patch and no window divides are compared with
    eager in any case.
    """
    recorder = _Recorder()
    try:
        inputs = draw(layout, Case(name="sizes", lengths=lengths, padding="none"), arrays)
        with _lengths_recorded(), recorder:
            ask(module, inputs)
    except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
        log.debug("sizes at %s: %r", dict(lengths), error)
    if not set(lengths) & set(PICTURE):
        return recorder.compared
    return {site: sides for site, sides in recorder.compared.items() if site[2] != "__mod__"}


def cached_runs(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Callable[[Mapping[str, int]], Compared]:
    """Return a function from lengths of axes, others as traced, to the comparisons of a run, each made once."""
    known: dict[frozenset[tuple[str, int]], Compared] = {}

    def run(lengths: Mapping[str, int]) -> Compared:
        key = frozenset(lengths.items())
        if key not in known:
            known[key] = compared(module, layout, arrays, lengths)
        return known[key]

    return run
