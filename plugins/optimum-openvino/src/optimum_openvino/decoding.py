"""Sessions of decoders: the cache lies in an infer request, one for each state.

A compiled model is shared by all states, and its weights are in memory once. Rows are exchanged by the input
`beam_idx` of the next call, at no cost of their own. To crop, to fork and to join copies the cache through numpy: it
happens once in many tokens, or at the beginning of another text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from optimum_core.backend import check_names, check_turn, closed, described, read_options
from optimum_core.errors import SessionError, UnavailableError
from optimum_core.types import Array, ContinuousLimits, JoinedRow, SessionRequest, StateSpec, TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_openvino.devices import BACKEND, parse_device, spoken
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.runtime import RUNTIME_ERRORS, compiled_model
from optimum_openvino.session import brief, host_array, inference, places
from optimum_openvino.stateful import ROWS

if TYPE_CHECKING:
    from optimum_openvino.continuous import OvContinuousBatch


class OvDecoderSession:
    """An open decoder on one device. States may be begun and run from several threads at once.

    Args:
        compiled: an `openvino.CompiledModel` with the inputs and outputs of the request's artifact, and `beam_idx`.
        compile: compiles the same again, for the states that are begun after a failed call.
    """

    backend = BACKEND
    #: It keeps each state about twice: 268 MiB for 128 MiB of keys and values (openvino 2026.4).
    held = 2

    def __init__(self, compiled: Any, request: SessionRequest, compile: Callable[[], Any]) -> None:
        artifact = request.artifact
        assert artifact.state is not None
        self.who = f"backend '{BACKEND}', {artifact.main_file}"
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.state: StateSpec = artifact.state
        self.device = spoken(next(iter(compiled.get_property("EXECUTION_DEVICES"))))
        self.feeds = places(compiled.inputs, self.inputs)
        self.fetches = places(compiled.outputs, self.outputs)
        self.rows_input = next(i for i, port in enumerate(compiled.inputs) if ROWS in port.get_names())
        self.infer = inference(compiled, self.device)
        self._compiled, self._compile, self._open = compiled, compile, True
        self._asked = request

    @classmethod
    def of(cls, request: SessionRequest) -> OvDecoderSession:
        """Compile the artifact.

        Raises:
            OptionError: an unknown option or device.
            SessionError: the model cannot be opened on that device in that precision.
        """
        options = read_options(BACKEND, OpenVinoOptions, request.options)
        make = partial(compiled_model, request, options, parse_device(request.device))
        return cls(make(), request, make)

    def begin(self, rows: int) -> OvState:
        """Return an empty state for this number of rows."""
        return OvState(self, rows)

    def join(self, rows: Sequence[JoinedRow]) -> OvState:
        """Return a new state of these rows, aligned at their last position; shorter ones begin with padding.

        Raises:
            UnavailableError: the model keeps states of a fixed size.
            SessionError: the session or a state is closed.
        """
        if any(layer.kind != "key-value" or layer.has_fixed_states for layer in self.state.layers):
            why = "this model keeps states of a fixed size, which have no positions to align"
            raise UnavailableError(self.who, why, "run the generations apart")
        made, places = self.begin(len(rows)), []
        for one in rows:
            assert isinstance(one.state, OvState)
            places.append((one.state, one.row, one.length))
        made.fill(places)
        return made

    def continuous(self, limits: ContinuousLimits) -> OvContinuousBatch:
        """Return an empty batch of openvino-genai, which compiles the model once more.

        Raises:
            UnavailableError: openvino-genai is not installed, or cannot run this decoder.
        """
        from optimum_openvino.continuous import OvContinuousBatch

        return OvContinuousBatch.of(self._asked, limits)

    def request(self) -> Any:
        """Return a new infer request, whose variables are empty.

        Raises:
            SessionError: the session is closed.
        """
        if not self._open:
            raise closed(self.who)
        if self._compiled is None:
            self._compiled = self._compile()
        return self._compiled.create_infer_request()

    def give_up(self) -> None:
        """Discard the compiled model: a failed inference leaves its shapes in it, and later calls would fail too."""
        self._compiled = None

    def close(self) -> None:
        """Free the model; states that are in use keep it until they are closed."""
        self._open, self._compiled = False, None


class OvState:
    """The cache of one generation, in the variables of an infer request."""

    backend = BACKEND

    def __init__(self, session: OvDecoderSession, rows: int) -> None:
        self._session = session
        self._names = [name for name, _ in session.feeds]
        self._request: Any = session.request()
        self._rows = np.arange(rows, dtype=np.int32)
        self.length = 0
        self.device = session.device
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the logits of new tokens, which the cache then holds too.

        Raises:
            InputError: a name is missing or unknown, or the rows are not those of the state.
            SessionError: the runtime failed, or the state is closed.
        """
        request, who = self._opened(), self._session.who
        check_names(who, self._names, inputs)
        arrays = [(index, host_array(who, name, inputs[name])) for name, index in self._session.feeds]
        rows = len(self._rows)
        new = check_turn(who, inputs, rows, self.length)
        try:
            for index, array in arrays:
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
            request.set_input_tensor(self._session.rows_input, openvino.Tensor(self._rows, shared_memory=True))
            results = list(self._session.infer(request).values())
        except RUNTIME_ERRORS as error:
            self._request = None
            self._session.give_up()
            remedy = f"check the inputs' types and shapes ({described(self.inputs)}), and begin a new state"
            raise SessionError(who, f"the run failed: {brief(error)}", remedy) from error
        self.length += new
        self._rows = np.arange(rows, dtype=np.int32)
        return {name: results[index].copy() for name, index in self._session.fetches}

    def crop(self, length: int) -> None:
        """Remove all positions from this one on.

        Raises:
            UnavailableError: positions cannot be taken out of states of a fixed size.
        """
        request = self._opened()
        self._session.state.check_crop(self._session.who, self.length, length)
        if length >= self.length:
            return
        if length == 0:
            request.reset_state()  # its rows are those of the next call
            self._settle()
        else:
            for variable in request.query_state():
                kept = np.ascontiguousarray(variable.state.data[self._rows, :, :length])
                variable.state = openvino.Tensor(kept)
            self._settle()
        self.length = length

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by those with these indices; the next call does it."""
        self._opened()
        self._rows = self._rows[np.asarray(rows, dtype=np.int32)]

    def fork(self) -> OvState:
        """Return an independent copy of the state, in a request of its own."""
        self._opened()
        other = OvState(self._session, len(self._rows))
        if self.length:
            copies = {name: cache[self._rows] for name, cache in self.variables().items()}
            for variable in other._request.query_state():
                variable.state = openvino.Tensor(np.ascontiguousarray(copies[variable.name]))
        other.length = self.length
        return other

    def fill(self, rows: Sequence[tuple[OvState, int, int]]) -> None:
        """Take the last positions of rows of other states, each by its index there and the number of positions."""
        length = max(count for _, _, count in rows)
        named = {id(state): {item.name: item for item in state._opened().query_state()} for state, _, _ in rows}
        for variable in self._opened().query_state():
            # To read a variable copies it, with all of its rows: so one at a time.
            caches = {key: variables[variable.name].state.data for key, variables in named.items()}
            first = caches[id(rows[0][0])]
            joined = np.zeros((len(rows), first.shape[1], length, first.shape[3]), first.dtype)  # masks add to padding
            for target, (state, row, count) in zip(joined, rows, strict=True):
                own = caches[id(state)][state._rows[row]]
                target[:, length - count :] = own[:, state.length - count : state.length]
            variable.state = openvino.Tensor(joined)
        self.length = length

    def variables(self) -> Arrays:
        """Return keys and values by their names [rows, heads, positions, size]; rows are exchanged by the next call."""
        return {variable.name: variable.state.data for variable in self._opened().query_state()}

    def close(self) -> None:
        """Free the cache."""
        self._request = None

    def _settle(self) -> None:
        """Forget an exchange of rows that was just carried out on the variables."""
        self._rows = np.arange(len(self._rows), dtype=np.int32)

    def _opened(self) -> Any:
        if self._request is None:
            raise closed(self._session.who)
        return self._request
