"""Trials of the lengths and values that the eager model takes. Each trial runs on a throwaway copy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optimum_core.models.eager.bounded_calls import ReadsNumberError, without_counting
from optimum_core.models.eager.calls import apart, call, fresh
from optimum_core.models.eager.kept_answers import ask_once
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.switches import LONGEST
from optimum_core.types.arrays import Arrays, NDArray
from optimum_core.types.tensors import is_batch

log = logging.getLogger(__name__)

#: Seconds after which a call that has not failed counts as accepted: refusals happen in lookups of ids and positions,
#: before any layer computes.
TRIAL_SECONDS = 0.5
#: Kinds of inputs that are looked up in tables, whatever else the model reads of them.
_INDICES = frozenset({"ids", "types", "boxes"})

Shapes = dict[str, tuple[int, ...]]


class _EnoughError(Exception):
    """A call was stopped after `TRIAL_SECONDS` seconds."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Trial calls of one model.

    Attributes:
        arrays: samples of the user.
    """

    module: Any
    arrays: Mapping[str, Any]

    def shapes(self, layout: Layout, lengths: Mapping[str, int]) -> Shapes | None:
        """Return the outputs' shapes when axes have these lengths; None if the eager model refuses."""
        try:
            inputs = draw(layout, Case(name="probe", lengths=lengths), self.arrays)
            return {name: tuple(value.shape) for name, value in flatten(ask_once(self.module, inputs)).items()}
        except Exception as error:  # noqa: BLE001 - the eager model refuses these lengths, by an error of any type
            log.debug("lengths %s: %r", dict(lengths), error)
            return None

    def takes(self, layout: Layout, lengths: Mapping[str, int]) -> bool:
        """Whether the eager model begins to compute at these lengths; the call is not run to its end."""
        batch = {axis: 1 for axis in layout.axes if is_batch(axis)}
        case = Case(name="probe", lengths={**batch, **lengths}, padding="none")  # padding would not use up positions
        return self.takes_inputs(draw(layout, case, self.arrays))

    def takes_inputs(self, inputs: Arrays, *, counts: bool = True) -> bool:
        """Whether the eager model begins to compute on these inputs.

        Args:
            counts: whether the model may read large numbers among them in Python.

        Raises:
            ReadsNumberError: it reads one, though it may not.
        """
        copy = fresh(self.module)
        start, busy = time.perf_counter(), time.process_time()

        def look(*_: Any) -> None:
            # A machine that was held up before the lookup says nothing: so the lesser of wall-clock and CPU time.
            if min(time.perf_counter() - start, time.process_time() - busy) > TRIAL_SECONDS:
                raise _EnoughError

        if copy is not self.module:
            for part in copy.modules():
                if not isinstance(part, torch.jit.ScriptModule):  # it takes no hooks
                    part.register_forward_pre_hook(look)
        try:
            with nullcontext() if counts else without_counting():
                call(copy, apart(inputs))
        except _EnoughError:
            return True
        except ReadsNumberError:
            raise
        except Exception as error:  # noqa: BLE001 - the eager model refuses these, by an error of any type
            log.debug("refused: %r", error)
            return False
        return True

    def longest(self, layout: Layout, axis: str, taken: int, refused: int) -> int:
        """Return the greatest accepted length, between an accepted and a refused one."""
        for length in range(refused - 1, max(taken, refused - 4), -1):  # tables may reserve a row or two
            if self.takes(layout, {axis: length}):
                return length
            refused = length
        while refused - taken > 1:
            middle = (taken + refused) // 2
            taken, refused = (middle, refused) if self.takes(layout, {axis: middle}) else (taken, middle)
        return taken

    def shortest(self, layout: Layout, axis: str, taken: int) -> int:
        """Return the least accepted length, no greater than an accepted one."""
        if self.shapes(layout, {axis: 1}) is not None:
            return 1
        refused = 1
        while taken - refused > 1:
            middle = (taken + refused) // 2
            taken, refused = (taken, middle) if self.shapes(layout, {axis: middle}) is None else (middle, refused)
        return taken


def tables_of(module: torch.nn.Module) -> tuple[int, ...]:
    """Return the numbers of rows of tensors that may be lookup tables, ascending."""
    found: set[int] = {*getattr(module, "table_lengths", ())}
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag):
            found.add(int(part.num_embeddings))
        elif not type(part).__module__.startswith("torch."):
            own = (tensor for tensor in (*part._parameters.values(), *part._buffers.values()) if tensor is not None)
            found.update(int(length) for tensor in own if tensor.dim() > 1 for length in tensor.shape)
    return tuple(sorted(length for length in found if length > 1))


def value_ranges(trials: Trials, layout: Layout) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
    """Yield for every integer input that is looked up in a table the least and greatest value that the eager model
    takes. One that it reads in Python is no index but a size, of a picture in patches: as large a one fills the memory.
    """
    tables = tables_of(trials.module)
    batch = {axis: 1 for axis in layout.axes if is_batch(axis)}
    inputs = draw(layout, Case(name="values", lengths=batch, padding="none"), trials.arrays)
    for item in layout.inputs:
        if item.kind != "mask" and np.issubdtype(inputs[item.name].dtype, np.integer) and inputs[item.name].size:
            sizes = tables if "label" not in item.name else tuple(sorted({*tables, *_classes(trials.module)}))
            try:
                yield item.name, _range(trials, inputs, item.name, sizes, counts=item.kind in _INDICES)
            except ReadsNumberError:
                yield item.name, (None, None)


def _classes(module: torch.nn.Module) -> set[int]:
    """Return the numbers of classes that there may be."""
    return {part.out_features for part in module.modules() if isinstance(part, torch.nn.Linear)} - {1}


def _range(
    trials: Trials, inputs: Arrays, name: str, tables: Sequence[int], *, counts: bool
) -> tuple[int | None, int | None]:
    limits = np.iinfo(inputs[name].dtype)
    for everywhere in (False, True):  # boxes need all corners changed: one alone would pass its opposite

        def takes(value: int) -> bool:
            if not limits.min <= value <= limits.max:
                return False
            held = {**inputs, name: _holding(inputs[name], value, everywhere)}  # noqa: B023
            return trials.takes_inputs(held, counts=counts)

        low, high = -1, len(tables)  # values from tables[high] on are refused, those up to tables[low] accepted
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if takes(tables[middle]) else (low, middle)
        rows = tables[high] if high < len(tables) else None
        # The last ids may be special ones, which a model allows at certain positions only.
        if rows is not None and any(takes(rows - back) for back in range(1, min(4, rows + 1))):
            return (None if takes(-1) else 0), rows - 1
        if rows is None:
            return (0 if not takes(-1) else None), None
    return None, None


def box_sides(
    trials: Trials, layout: Layout, name: str, least: int | None, greatest: int | None
) -> tuple[int, int] | None:
    """Return the least and the greatest width and height of boxes that the eager model takes, where some models look
    them up in a table; None: it takes all.

    Args:
        least, greatest: the range of the corners.
    """
    if least is None or greatest is None:
        return None
    batch = {axis: 1 for axis in layout.axes if is_batch(axis)}
    inputs = draw(layout, Case(name="boxes", lengths=batch, padding="none"), trials.arrays)

    def takes(side: int) -> bool:
        start = least - min(side, 0)
        box = np.array([start, start, start + side, start + side])
        return trials.takes_inputs({**inputs, name: np.broadcast_to(box, inputs[name].shape).astype(np.int64)})

    widest = greatest - least
    found = (_furthest(takes, -widest), _furthest(takes, widest))
    return None if found == (-widest, widest) else found


def _furthest(takes: Callable[[int], bool], end: int) -> int:
    """Return the number furthest from 0 towards `end` that is accepted, if 0 is and those accepted are contiguous."""
    if takes(end):
        return end
    taken, refused = 0, abs(end)
    step = 1 if end > 0 else -1
    if not takes(step):
        return 0
    while refused - taken > 1:
        middle = (taken + refused) // 2
        taken, refused = (middle, refused) if takes(step * middle) else (taken, middle)
    return step * taken


def _holding(array: NDArray, value: int, everywhere: bool) -> NDArray:
    """Return an input with a value in the middle of every row, or everywhere."""
    made = array.copy()
    if everywhere or made.ndim == 0:
        made[...] = value
    else:
        made[..., made.shape[-1] // 2] = value
    return made


def longest_taken(trials: Trials, layout: Layout, axis: str, taken: int, candidates: Sequence[int]) -> int | None:
    """Return the greatest length of an axis that the eager model takes; None: none of the candidates is a limit.

    Args:
        taken: an accepted length.
        candidates: numbers near which a limit may lie.
    """
    refused = None
    for number in sorted({number for number in candidates if taken <= number <= LONGEST}, reverse=True):
        if trials.takes(layout, {axis: number + 1}):
            taken = number + 1
            break
        refused = number + 1
    return trials.longest(layout, axis, taken, refused) if refused is not None else None
