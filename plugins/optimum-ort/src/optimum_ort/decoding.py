"""Sessions of decoders: an ONNX Runtime session that all generations share, and the memory of each.

The file is a graph with keys and values as inputs and outputs; `optimum_ort.memory` keeps them from call to call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from optimum_core.backend import check_names, check_turn, closed, described, read_input
from optimum_core.errors import SessionError, UnavailableError
from optimum_core.types import Array, JoinedRow, SessionRequest, StateSpec, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_ort.devices import BACKEND
from optimum_ort.interface import check_interface
from optimum_ort.memory import Graph, Memory, empty_memory, joined_memory
from optimum_ort.runtime import RUNTIME_ERRORS
from optimum_ort.session import opened


class OrtDecoderSession:
    """An open decoder on the CPU. States may be begun and run from several threads at once.

    Raises:
        OptionError: an unknown option or device.
        SessionError: the model cannot be opened, or its inputs and outputs are not the artifact's.
    """

    backend = BACKEND

    def __init__(self, request: SessionRequest) -> None:
        artifact = request.artifact
        assert artifact.state is not None
        session = opened(request)
        self.who = f"backend '{BACKEND}', {artifact.main_file}"
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.state: StateSpec = artifact.state
        self.device = "cpu"
        whole = dataclasses.replace(
            artifact, inputs=(*self.inputs, *self.state.past), outputs=(*self.outputs, *self.state.present)
        )
        check_interface(self.who, whole, session)
        self._graph: Graph | None = Graph(session=session, state=self.state)

    def begin(self, rows: int) -> OrtState:
        """Return an empty state for this number of rows.

        Raises:
            SessionError: the session is closed.
        """
        if self._graph is None:
            raise closed(self.who)
        return OrtState(self, empty_memory(self._graph, rows), rows)

    def join(self, rows: Sequence[JoinedRow]) -> OrtState:
        """Return a new state of these rows, aligned at their last position; shorter ones begin with padding.

        Raises:
            UnavailableError: the model keeps states of a fixed size.
            SessionError: the session or a state is closed.
        """
        if self._graph is None:
            raise closed(self.who)
        if any(layer.kind != "key-value" or layer.has_fixed_states for layer in self.state.layers):
            why = "this model keeps states of a fixed size, which have no positions to align"
            raise UnavailableError(self.who, why, "run the generations apart")
        parts: list[list[NDArray]] = []
        for one in rows:
            state = one.state
            assert isinstance(state, OrtState)
            parts.append(state.positions(one.row, one.length))
        length = max(one.length for one in rows)
        return OrtState(self, joined_memory(self._graph, parts, length), len(rows), length)

    def close(self) -> None:
        """Free the model; states that are in use keep it until they are closed."""
        self._graph = None


class OrtState:
    """The memory of one generation, and the number of positions in it."""

    backend = BACKEND

    def __init__(self, session: OrtDecoderSession, memory: Memory, rows: int, length: int = 0) -> None:
        self._session, self._who, self._rows = session, session.who, rows
        self._memory: Memory | None = memory
        self._names = [spec.name for spec in session.inputs]
        self.length = length
        self.device = session.device
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the logits of new tokens, which the memory then holds too. A call that fails leaves it as it was.

        Raises:
            InputError: a name is missing or unknown, or the rows are not those of the state.
            SessionError: the runtime failed, or the state is closed.
        """
        memory = self._opened()
        check_names(self._who, self._names, inputs)
        arrays = {name: self._host(name, value) for name, value in inputs.items()}
        new = check_turn(self._who, arrays, self._rows, self.length)
        try:
            logits = memory.run(arrays, self.length)
        except RUNTIME_ERRORS as error:
            remedy = f"check the inputs' types and shapes ({described(self.inputs)})"
            raise SessionError(self._who, f"the run failed: {error}", remedy) from error
        self.length += new
        return {"logits": logits}

    def crop(self, length: int) -> None:
        """Remove all positions from this one on.

        Raises:
            UnavailableError: positions cannot be taken out of states of a fixed size.
        """
        memory = self._opened()
        self._session.state.check_crop(self._who, self.length, length)
        if length < self.length:
            memory.crop(length)
            self.length = length

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by those with these indices."""
        self._opened().select(rows, self.length)
        self._rows = len(rows)

    def positions(self, row: int, count: int) -> list[NDArray]:
        """Return the last keys and values of a row [heads, count, size], in the order of the specification."""
        return self._opened().part(row, self.length - count, self.length)

    def fork(self) -> OrtState:
        """Return an independent copy of the state."""
        return OrtState(self._session, self._opened().copy(self.length), self._rows, self.length)

    def close(self) -> None:
        """Free the memory."""
        self._memory = None

    def _opened(self) -> Memory:
        if self._memory is None:
            raise closed(self._who)
        return self._memory

    def _host(self, name: str, value: Array) -> NDArray:
        array = value if isinstance(value, np.ndarray) else read_input(self._who, name, value, np.from_dlpack)
        return np.ascontiguousarray(array)
