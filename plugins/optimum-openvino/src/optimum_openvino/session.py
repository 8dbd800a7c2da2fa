"""Sessions of an IR or ONNX model.

The calling convention was chosen by measurement (openvino 2026.4, one thread, microseconds per call, smallest of
seven rounds on a busy machine; one MatMul and Relu, and a MiniLM classifier):

| way | 1x4 to 1x4 | 8x64 to 8x30522 | 1024x8 to 1024x30522 | MiniLM 1x16 |
|---|---|---|---|---|
| `set_input_tensor`, `infer(None)`, outputs copied (taken) | 12.3 | 570 | 46,700 | 5,090 |
| the same, `start_async` and `wait` | 16.6 | 621 | 46,600 | 4,920 |
| outputs allocated by numpy and set | 15.4 | 557 | 45,500 | 4,740 |
| outputs allocated by OpenVINO and set | 15.8 | 575 | 81,200 | 4,540 |
| `infer(inputs)`, inputs shared, outputs copied | 30.6 | 642 | 46,100 | 5,100 |
| `infer(inputs)`, both shared: the next call overwrites them | 29.9 | 556 | 19,200 | 5,160 |
| `infer(inputs)`, both copied | 39.5 | 631 | 49,600 | 5,440 |
| a new request per call | 38.1 | 607 | 56,600 | 5,260 |

A model of which an output is an input, or a view of one, gets a new request for each call: through the same one, a
later call writes into the memory of the earlier one's input (openvino 2026.4).

Inputs are shared with the runtime. Outputs are copied where their shape is not known ahead: allocating them first saves
3 % for large ones, and costs as much for small ones as all the rest of the call. A model that is compiled for the one
shape of the call writes straight into the arrays that the caller gets.

`infer` of a model that is compiled for one stream of one thread raises nothing: a failed task stays at the head of the
executor's queue, and every later call runs it again instead of its own (openvino 2026.4). So where one thread is to
compute, the model is compiled for no stream at all (`optimum_openvino.runtime`): the calling thread computes, and
errors are raised, for a third of the smallest call above. A model that came out with one stream of one thread by other
ways is run by `start_async` and `wait`, which raise too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import openvino

from optimum_core.backend import check_names, closed, described, read_input, read_options
from optimum_core.errors import SessionError
from optimum_core.types import Array, Artifact, SessionRequest, TensorSpec
from optimum_core.types.arrays import Arrays, NDArray
from optimum_openvino.devices import BACKEND, Place, parse_device, spoken
from optimum_openvino.interface import fixed, positions
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.runtime import RUNTIME_ERRORS, compiled_model, read_artifact, returns_inputs, writes_beyond

#: The largest number of shapes that a session is compiled for separately: each holds its own form of the weights.
MOST_PREPARED = 8

Shapes = tuple[tuple[int, ...], ...]


@dataclass(kw_only=True, slots=True, eq=False)
class _Form:
    """A compiled model: for every shape, or for one.

    A failed inference leaves its shapes in the compiled model, not only in its request: later calls of a shape that
    worked before then fail too, even through new requests (openvino 2026.4). So the compiled model is discarded with
    the request, and compiled again by the next call.

    Attributes:
        compiled: None between a failed inference and the next call.
        compile: compiles the model again; None where it was passed compiled: then it is always kept.
        outputs: (name, index, shape, dtype), where all shapes are known ahead.
    """

    compiled: Any
    compile: Callable[[], Any] | None = None
    outputs: tuple[tuple[str, int, tuple[int, ...], np.dtype[Any]], ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ready(self) -> Any:
        """Return the compiled model, compiled again where it was discarded."""
        compiled = self.compiled
        if compiled is None:
            with self.lock:
                if self.compiled is None:
                    assert self.compile is not None
                    self.compiled = self.compile()
                compiled = self.compiled
        return compiled

    def give_up(self, compiled: Any) -> bool:
        """Discard that compiled model; return whether this call is the first to do so."""
        with self.lock:
            first = self.compiled is compiled
            if first and self.compile is not None:
                self.compiled = None
            return first


#: The requests of one stream, each with its compiled model. A request is made when a form is first called: it holds
#: memory for every tensor between operators.
_Slot = dict[_Form, tuple[Any, Any]]


class OvSession:
    """An open model on one device. Calls may come from several threads at once; `close` waits for none of them.

    OpenVINO runs one call per stream side by side: one for latency, `request.streams` of them otherwise. Further
    callers wait. For each of `request.shapes`, up to `MOST_PREPARED`, the model is compiled once more for that shape
    alone: calls of that shape run on it, which is faster where they are small.

    Args:
        compiled: an `openvino.CompiledModel` with the artifact's inputs and outputs.
        compile: compiles the same again, for the calls after a failed one.
    """

    backend = BACKEND

    def __init__(self, compiled: Any, artifact: Artifact, compile: Callable[[], Any] | None = None) -> None:
        self._who = f"backend '{BACKEND}', {artifact.main_file}"
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.device = spoken(next(iter(compiled.get_property("EXECUTION_DEVICES"))))
        self._feeds = places(compiled.inputs, self.inputs)
        self._names = [name for name, _ in self._feeds]
        self._fetches = places(compiled.outputs, self.outputs)
        self._infer = inference(compiled, self.device)
        self._keeps_requests = not returns_inputs(compiled)
        self.crash_prone = writes_beyond(compiled)
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(self.streams):
            slots.put({})
        self.prepared: Mapping[Shapes, _Form] = {}
        self._open: tuple[_Form, queue.SimpleQueue[_Slot]] | None = (_Form(compiled=compiled, compile=compile), slots)

    @classmethod
    def of(cls, request: SessionRequest) -> OvSession:
        """Compile the artifact, and once more for each of the request's shapes.

        Raises:
            OptionError: an unknown option or device.
            SessionError: the model cannot be opened on that device in that precision, or its inputs and outputs are not
                the artifact's.
        """
        place = parse_device(request.device)
        options = read_options(BACKEND, OpenVinoOptions, request.options)
        make, read = partial(compiled_model, request, options, place), read_artifact(request, place)
        session = cls(make(read=read), request.artifact, make)
        session.prepared = dict(session._prepare(request, options, place, read))
        return session

    def _prepare(
        self, request: SessionRequest, options: OpenVinoOptions, place: Place, read: Any
    ) -> Iterator[tuple[Shapes, _Form]]:
        """Yield the model for each shape that fixes all of its axes, by the shapes of its inputs in feed order."""
        specs = {spec.name: spec for spec in self.inputs}
        axes = {axis for spec in self.inputs for axis in spec.dynamic_axes.values()}
        for lengths in [shape for shape in request.shapes if axes and axes <= set(shape)][:MOST_PREPARED]:
            make = partial(compiled_model, request, options, place, lengths)
            compiled = make(read=read)
            key = tuple(tuple(fixed(specs[name], lengths)) for name, _ in self._feeds)
            yield key, _Form(compiled=compiled, compile=make, outputs=tuple(_known_outputs(compiled, self._fetches)))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return outputs by name, in memory of their own.

        Inputs are host arrays; those that are C-contiguous, writeable and of native byte order are not copied.

        Raises:
            InputError: a name is missing or unknown, or a value is no array that can be read here.
            SessionError: the runtime failed, or the session is closed.
        """
        opened = self._open
        if opened is None:
            raise closed(self._who)
        check_names(self._who, self._names, inputs)
        # Kept until the call is over: a request keeps no reference to the memory that it reads.
        arrays = [(index, host_array(self._who, name, inputs[name])) for name, index in self._feeds]
        form, slots = opened
        if self.prepared:
            form = self.prepared.get(tuple(array.shape for _, array in arrays), form)
        slot = slots.get()
        try:
            return self._run(form, slot, arrays)
        finally:
            slots.put(slot)

    def _run(self, form: _Form, slot: _Slot, arrays: Sequence[tuple[int, Any]]) -> Arrays:
        compiled = form.ready()
        held = slot.pop(form, None)  # returned once the call is over: a request whose inference failed is discarded
        request = held[1] if held is not None and held[0] is compiled else compiled.create_infer_request()
        try:
            for index, array in arrays:
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
        except RUNTIME_ERRORS as error:
            raise self._refused(error) from error
        try:
            made = self._filled(request, form) if form.outputs else self._copied(request)
        except RUNTIME_ERRORS as error:
            if not form.give_up(compiled) and form.compile is not None:
                return self._run(form, slot, arrays)  # another stream's call failed: this one may be valid
            raise self._refused(error) from error
        if self._keeps_requests:
            slot[form] = compiled, request
        return made

    def _copied(self, request: Any) -> Arrays:
        results = list(self._infer(request).values())
        return {name: results[index].copy() for name, index in self._fetches}

    def _filled(self, request: Any, form: _Form) -> Arrays:
        """Run the request into new arrays, which the caller owns."""
        made = {}
        for name, place, shape, dtype in form.outputs:
            made[name] = array = np.empty(shape, dtype)
            request.set_output_tensor(place, openvino.Tensor(array, shared_memory=True))
        self._infer(request)
        return made

    def _refused(self, error: Exception) -> SessionError:
        remedy = f"check the inputs' types and shapes ({described(self.inputs)})"
        return SessionError(self._who, f"the run failed: {brief(error)}", remedy)

    @property
    def compiled(self) -> Any:
        """The runtime's own model, for inputs of any shape; None once the session is closed."""
        return self._open[0].compiled if self._open else None

    def close(self) -> None:
        """Free the model. A call that is running keeps it alive until it returns."""
        self._open = None
        self.prepared = {}


def host_array(who: str, name: str, value: Array) -> NDArray:
    """Return an input as an array whose memory OpenVINO can share.

    Raises:
        InputError: it is no array that can be read here.
    """
    array = value if isinstance(value, np.ndarray) else read_input(who, name, value, np.from_dlpack)
    flags = array.flags
    if flags.c_contiguous and flags.writeable and array.dtype.isnative:
        return array
    # OpenVINO does not share read-only memory, although it writes into no input.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def places(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> list[tuple[str, int]]:
    """Return names with the indices of their ports; their presence was checked when the model was read."""
    pairs = zip(specs, positions(ports, specs), strict=True)
    return [(spec.name, place) for spec, place in pairs if place is not None]


def _known_outputs(
    compiled: Any, fetches: Sequence[tuple[str, int]]
) -> Iterator[tuple[str, int, tuple[int, ...], np.dtype[Any]]]:
    """Yield the outputs' specs, or nothing unless every output has a fixed shape and a type that numpy has."""
    ports = [(name, place, compiled.outputs[place]) for name, place in fetches]
    types = [port.get_element_type().get_type_name() for _, _, port in ports]
    if all(port.get_partial_shape().is_static for _, _, port in ports) and "bf16" not in types:
        for name, place, port in ports:
            yield name, place, tuple(port.get_shape()), np.dtype(port.get_element_type().to_dtype())


def inference(compiled: Any, device: str) -> Callable[[Any], Mapping[Any, Any]]:
    """Return the function that runs a request of a compiled model and raises the runtime's errors."""
    return _infer_queued if _hides_errors(compiled, device) else _infer


def _hides_errors(compiled: Any, device: str) -> bool:
    """Whether `infer` raises no error of the inference; see the beginning of this module."""
    if device != "cpu":
        return False
    streams, threads = compiled.get_property("NUM_STREAMS"), compiled.get_property("INFERENCE_NUM_THREADS")
    return int(streams) == 1 and int(threads) == 1


def _infer(request: Any) -> Mapping[Any, Any]:
    outputs: Mapping[Any, Any] = request.infer(None, share_outputs=True)
    return outputs


def _infer_queued(request: Any) -> Mapping[Any, Any]:
    request.start_async()
    request.wait()
    outputs: Mapping[Any, Any] = request.results
    return outputs


def brief(error: Exception) -> str:
    """Return OpenVINO's own sentence, without the source locations in it."""
    return sentence(str(error)) or type(error).__name__


def sentence(message: str) -> str:
    """Return what a message of OpenVINO says, without the source locations in it."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(kept)
