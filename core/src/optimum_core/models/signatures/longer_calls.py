"""Lengths beyond which the model's code takes other steps, found by ever longer calls of the eager model.

A loop over pieces of one size (`x.split(300, 1)`, `range(0, x.shape[1], 300)`) shows in no comparison of sizes, and an
exporter keeps as many pieces as the traced length has. It shows in the functions of torch that a call runs through.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from optimum_core.models.eager.calls import ask
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import PICTURE, Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import LONG, MANY, ShapesAt
from optimum_core.models.signatures.eager_trials import TRIAL_SECONDS, Shapes
from optimum_core.models.signatures.switches import LONGEST
from optimum_core.types import AxisRange
from optimum_core.types.tensors import is_batch

log = logging.getLogger(__name__)
#: Maximum count of numbers in a call's inputs: 256 MiB as they are drawn, as floats of 64 bits.
_MOST_NUMBERS = 2**25


#: Share of a call after which its whole time is foreseen, and the multiple of `TRIAL_SECONDS` at which it is stopped.
_TELLING, _HOPELESS = 1 / 8, 1.5


class _TooLongError(Exception):
    """A call was stopped: it takes more than `TRIAL_SECONDS` seconds."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of the eager model.

    Attributes:
        functions: names of the functions of torch that it called, in order.
        shapes: the outputs' shapes, by name.
        seconds: those from the start of the call to the end of each function.
    """

    functions: tuple[str, ...]
    shapes: Shapes
    seconds: tuple[float, ...]

    def following(self, length: int) -> frozenset[tuple[str, int]]:
        """Return the axes of outputs, by name and index, that have this length."""
        return frozenset(
            (name, index) for name, shape in self.shapes.items() for index, size in enumerate(shape) if size == length
        )


class _FunctionRecorder(TorchFunctionMode):
    """While it is active, the functions of torch that are called are listed.

    Args:
        usual: the call at the traced lengths, by whose course the time of this one is foreseen.
    """

    def __init__(self, usual: CallRecord | None) -> None:
        super().__init__()
        self.functions: list[str] = []
        self.seconds: list[float] = []
        self._usual = usual
        self._start, self._busy = time.perf_counter(), time.process_time()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(getattr(func, "__name__", ""))
        found = func(*args, **(kwargs or {}))
        # A machine that does other work says nothing of the model: so the lesser of wall-clock and CPU time.
        seconds = min(time.perf_counter() - self._start, time.process_time() - self._busy)
        self.seconds += [seconds] * (len(self.functions) - len(self.seconds))
        # What gives no tensor may set a state, such as that of gradients as a block ends, and must have its way.
        if isinstance(found, torch.Tensor) and self._is_late():
            raise _TooLongError
        return found

    def _is_late(self) -> bool:
        """Whether the call has taken too long, or will take far too long if it goes on as the usual one does."""
        usual, count, seconds = (
            self._usual.seconds if self._usual is not None else (),
            len(self.seconds),
            self.seconds[-1],
        )
        if count > len(usual) or usual[count - 1] < _TELLING * usual[-1]:
            return seconds > TRIAL_SECONDS
        return seconds > TRIAL_SECONDS or seconds * usual[-1] > _HOPELESS * TRIAL_SECONDS * usual[count - 1]


def longer_switches(
    module: Any, layout: Layout, arrays: Mapping[str, Any], ranges: Mapping[str, AxisRange]
) -> tuple[dict[str, int], ShapesAt]:
    """Return by named axis the greatest length at which eager takes the steps of the traced one, where it lies beyond
    those that are compared in any case; and the outputs' shapes one beyond.

    An axis of which every length has steps of its own is left to the comparisons.
    """
    if getattr(module, "is_graph", False):
        return {}, {}
    turns: dict[str, int] = {}
    base: CallRecord | None = None
    beyond: ShapesAt = {}
    for axis in layout.axes:
        if axis in PICTURE:
            continue  # sizes that no patch and no window divides are compared in any case
        near, longest = _near(layout, axis), _longest(layout, axis, ranges.get(axis, AxisRange()).greatest or LONGEST)
        if longest <= near:
            continue

        if base is None and (base := _steps(module, layout, arrays, {})) is None:
            break

        def steps(length: int) -> CallRecord | None:
            return _steps(module, layout, arrays, {axis: length}, base)  # noqa: B023

        if (found := _turn(base, steps, layout.lengths[axis], near, longest)) is not None:
            turns[axis], shapes = found
            beyond[axis, turns[axis] + 1] = shapes
    return turns, beyond


def _near(layout: Layout, axis: str) -> int:
    """Return a length up to which every candidate is compared."""
    here = layout.lengths[axis]
    if is_batch(axis):
        return max(here, MANY if axis == "batch" else 3)
    return max(here, LONG) if axis not in ("samples", "frames") else 4 * here


def _longest(layout: Layout, axis: str, greatest: int) -> int:
    """Return the greatest length up to `greatest` of which the inputs fit into memory."""

    def numbers(length: int) -> int:
        return sum(math.prod(layout.shape(item, {axis: length})) for item in layout.inputs)

    return bisect_right(range(1, greatest + 1), _MOST_NUMBERS, key=numbers)


def _turn(
    base: CallRecord, steps: Callable[[int], CallRecord | None], here: int, near: int, longest: int
) -> tuple[int, Shapes] | None:
    """Return the greatest length with the steps of the lengths `here` and `near`, and the shapes one beyond; None: no
    call in which others were seen was short enough.

    Args:
        base: the steps at the length `here`.
    """
    other = steps(near) if near != here else base
    if other is None or base.functions != other.functions:
        return None
    following = base.following(here) & other.following(near)

    def alike(found: CallRecord, length: int) -> bool:
        return found.functions == base.functions and following <= found.following(length)

    same, changed = near, None
    while same < (longest if changed is None else changed - 1):
        length = min(2 * same + 1, longest) if changed is None else (same + changed) // 2
        found = steps(length)
        if found is None:
            return None
        if alike(found, length):
            same = length
        else:
            changed, shapes = length, found.shapes
    return None if changed is None else (same, shapes)


def _steps(
    module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int], usual: CallRecord | None = None
) -> CallRecord | None:
    """Return the steps of one call; None where the eager model refuses it, or takes too long.

    Args:
        usual: those of the call at the traced lengths, where these are others.
    """
    recorder = _FunctionRecorder(usual)
    try:
        inputs = draw(layout, Case(name="steps", lengths=lengths, padding="none"), arrays)
        with recorder:
            output = ask(module, inputs)
    except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
        log.debug("steps at %s: %r", dict(lengths), error)
        return None
    shapes = {name: tuple(value.shape) for name, value in flatten(output).items()}
    return CallRecord(tuple(recorder.functions), shapes, tuple(recorder.seconds))
