"""The keys and values of one generation, outside the graph: two ways to keep them.

A plain graph takes all past keys and values and gives all present ones, which it makes by copying: a token costs a copy
of the whole cache. A graph of level "shared_cache" writes new keys and values behind the old ones, in a buffer that is
input and output at once; see `optimum_ort.attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime

from optimum_core.types import StateSpec
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import EMBEDS

LOGITS = "logits"
#: The axis of past keys and values in a graph that writes into buffers.
CAPACITY = "capacity"
# Room for new tokens beyond the first call: memory that is not written costs nothing.
_ROOM = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """An open decoder without state of its own.

    Attributes:
        session: an `onnxruntime.InferenceSession`, which several generations may run at once.
        state: names and shapes of the keys and values that it takes and gives.
    """

    session: Any
    state: StateSpec

    @property
    def is_shared(self) -> bool:
        """Whether it writes new keys and values into the buffers of the past."""
        name = self.state.past[0].name
        declared = next(item for item in self.session.get_inputs() if item.name == name)
        return CAPACITY in declared.shape


class Memory(Protocol):
    """The keys and values of one generation."""

    def run(self, inputs: Mapping[str, NDArray], length: int) -> NDArray:
        """Return the logits of new tokens, after `length` positions in memory; keep their keys and values."""
        ...

    def crop(self, length: int) -> None:
        """Keep only the first `length` positions."""
        ...

    def select(self, rows: Sequence[int], length: int) -> None:
        """Replace the rows by those with these indices."""
        ...

    def copy(self, length: int) -> Memory:
        """Return an independent copy."""
        ...

    def part(self, row: int, start: int, end: int) -> list[NDArray]:
        """Return the keys and values of some positions of a row [heads, positions, size]."""
        ...

    def fill(self, parts: Sequence[Sequence[NDArray]], length: int) -> None:
        """Take keys and values for every row, of `length` positions at most, aligned at the last; zeros before them."""
        ...


def empty_memory(graph: Graph, rows: int) -> Memory:
    """Return a memory without positions for this number of rows."""
    return SharedBuffers(graph, rows) if graph.is_shared else HandedOn(graph, rows)


def joined_memory(graph: Graph, parts: Sequence[Sequence[NDArray]], length: int) -> Memory:
    """Return a memory of the keys and values of every row, aligned at the last of `length` positions."""
    made = empty_memory(graph, len(parts))
    made.fill(parts, length)
    return made


def _fill(buffer: NDArray, parts: Sequence[Sequence[NDArray]], index: int, length: int) -> None:
    """Write the keys, or the values, of one layer; padding is zeros, since masks add to what is there."""
    for row, part in enumerate(parts):
        start = length - part[index].shape[1]
        buffer[row, :, :start] = 0
        buffer[row, :, start:length] = part[index]


class HandedOn:
    """Outputs of one call that are the inputs of the next; ONNX Runtime allocates them."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self._graph = graph
        self._values = _nothing(graph, rows)

    def run(self, inputs: Mapping[str, NDArray], length: int) -> NDArray:
        state = self._graph.state
        binding = self._graph.session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for spec, value in zip(state.past, self._values, strict=True):
            binding.bind_ortvalue_input(spec.name, value)
        binding.bind_output(LOGITS)
        for spec in state.present:
            binding.bind_output(spec.name)
        self._graph.session.run_with_iobinding(binding)
        logits, *self._values = binding.get_outputs()
        return logits.numpy()  # type: ignore[no-any-return]

    def crop(self, length: int) -> None:
        if length == 0:  # states of a fixed size begin anew too
            self._values = _nothing(self._graph, len(self._values[0].numpy()))
            return
        self._values = [_value(np.ascontiguousarray(value.numpy()[:, :, :length])) for value in self._values]

    def select(self, rows: Sequence[int], length: int) -> None:
        self._values = [_value(value.numpy()[list(rows)]) for value in self._values]

    def copy(self, length: int) -> HandedOn:
        other = HandedOn(self._graph, 0)
        other._values = list(self._values)  # a call replaces them, and never writes into them
        return other

    def part(self, row: int, start: int, end: int) -> list[NDArray]:
        return [value.numpy()[row, :, start:end] for value in self._values]

    def fill(self, parts: Sequence[Sequence[NDArray]], length: int) -> None:
        for index, spec in enumerate(self._graph.state.past):
            made = np.empty(_shape(spec, len(parts), length), np.float32)
            _fill(made, parts, index, length)
            self._values[index] = _value(made)


class SharedBuffers:
    """Buffers with room for more positions than are in use, which a graph reads and extends in place."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self._graph = graph
        self._rows, self._capacity = rows, 0
        self._buffers: list[NDArray] = [np.empty(_shape(spec, rows, 0), np.float32) for spec in graph.state.past]
        self._binding: Any = None

    def run(self, inputs: Mapping[str, NDArray], length: int) -> NDArray:
        rows, new = inputs[EMBEDS if EMBEDS in inputs else "input_ids"].shape[:2]
        self._reserve(length + new, length)
        if rows > 1 and new > 1 and length > 0:
            return self._run_each(inputs)
        if self._binding is None:
            self._binding = self._bound(self._buffers)
        return self._run(self._binding, inputs)

    def _run_each(self, inputs: Mapping[str, NDArray]) -> NDArray:
        """Run row by row: the operator takes several new tokens after a past for one row only."""
        answers = []
        for row in range(self._rows):
            own = {name: _of_row(name, array, row) for name, array in inputs.items()}
            answers.append(self._run(self._bound([buffer[row : row + 1] for buffer in self._buffers]), own))
        return np.concatenate(answers)

    def _run(self, binding: Any, inputs: Mapping[str, NDArray]) -> NDArray:
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(LOGITS)
        self._graph.session.run_with_iobinding(binding)
        return binding.get_outputs_as_ortvaluevector()[0].numpy()  # type: ignore[no-any-return]

    def _bound(self, buffers: Sequence[NDArray]) -> Any:
        """Return a binding with each buffer as input and output; it serves every call until they are replaced."""
        state = self._graph.state
        binding = self._graph.session.io_binding()
        binding.bind_output(LOGITS)
        for past, present, buffer in zip(state.past, state.present, buffers, strict=True):
            value = _value(buffer)
            binding.bind_ortvalue_input(past.name, value)
            binding.bind_ortvalue_output(present.name, value)
        return binding

    def _reserve(self, needed: int, length: int) -> None:
        if needed > self._capacity:
            self._move(range(self._rows), length, max(needed + _ROOM, 2 * self._capacity))

    def _move(self, rows: Sequence[int], length: int, capacity: int) -> None:
        """Copy the rows with these indices into new buffers of this capacity."""
        self._binding = None
        for index, spec in enumerate(self._graph.state.past):
            made = np.empty(_shape(spec, len(rows), capacity), np.float32)
            for target, source in enumerate(rows):
                made[target, :, :length] = self._buffers[index][source, :, :length]
            self._buffers[index] = made
        self._rows, self._capacity = len(rows), capacity

    def crop(self, length: int) -> None:
        """Do nothing: later calls overwrite what is beyond the length."""

    def select(self, rows: Sequence[int], length: int) -> None:
        if len(rows) != self._rows:
            self._move(rows, length, self._capacity)
            return
        changed = [index for index, row in enumerate(rows) if index != row]
        sources = [rows[index] for index in changed]
        for buffer in self._buffers:
            buffer[changed, :, :length] = buffer[sources, :, :length]

    def copy(self, length: int) -> SharedBuffers:
        other = SharedBuffers(self._graph, self._rows)
        other._buffers = list(self._buffers)
        other._move(range(self._rows), length, self._capacity)
        return other

    def part(self, row: int, start: int, end: int) -> list[NDArray]:
        return [buffer[row, :, start:end] for buffer in self._buffers]

    def fill(self, parts: Sequence[Sequence[NDArray]], length: int) -> None:
        self._reserve(length, 0)
        for index, buffer in enumerate(self._buffers):
            _fill(buffer, parts, index, length)


def _of_row(name: str, array: NDArray, row: int) -> NDArray:
    """Return one row of an input; position ids of several axes have those first."""
    if array.ndim == 1:
        return array
    several = name == "position_ids" and array.ndim == 3
    return np.ascontiguousarray(array[:, row : row + 1]) if several else array[row : row + 1]


def _nothing(graph: Graph, rows: int) -> list[Any]:
    """Return keys and values of no position, and states as they begin."""
    return [_value(np.zeros(_shape(spec, rows, 0), np.float32)) for spec in graph.state.past]


def _value(array: NDArray) -> Any:
    """Return an OrtValue on the memory of an array."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _shape(spec: Any, rows: int, length: int) -> tuple[int, ...]:
    return rows, *(length if isinstance(size, str) else size for size in spec.shape[1:])
