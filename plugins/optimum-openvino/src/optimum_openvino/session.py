"""A loaded IR or ONNX model.

How a call reaches the runtime was chosen by measuring (openvino 2026.4, one thread, microseconds per call, smallest of
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

Inputs are shared with the runtime. Outputs are copied: what setting them ahead spares for large ones is 3 %, and it
costs as much for small ones as all the rest of the call.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino

from optimum_core.errors import InputError, SessionError
from optimum_core.types import Array, SessionRequest, TensorSpec
from optimum_openvino.devices import BACKEND, parse_device, spoken
from optimum_openvino.interface import positions
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.runtime import RUNTIME_ERRORS, compiled_model


class OvSession:
    """An open model on one device. Calls may come from several threads at once; `close` waits for none of them.

    As many calls run side by side as OpenVINO has streams for: one for latency, `request.streams` of them otherwise.
    Further callers wait.

    Raises:
        OptionError: an unknown option or device.
        SessionError: the model cannot be opened on that device in that precision, or its inputs and outputs are not
            the artifact's.
    """

    backend = BACKEND

    def __init__(self, request: SessionRequest) -> None:
        place = parse_device(request.device)
        options = OpenVinoOptions.from_mapping(request.options)
        compiled = compiled_model(request, options, place)
        self._who = f"backend '{BACKEND}', {request.artifact.main_file}"
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs
        self.device = spoken(next(iter(compiled.get_property("EXECUTION_DEVICES"))))
        self._feeds = _places(compiled.inputs, self.inputs)
        self._fetches = _places(compiled.outputs, self.outputs)
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            requests.put(None)  # made when first needed: each holds memory for every tensor between operators
        self._open: tuple[Any, queue.SimpleQueue[Any]] | None = (compiled, requests)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name, in memory of their own.

        Inputs are host arrays; those that are C-contiguous, writeable and of native byte order are not copied.

        Raises:
            InputError: a name is missing or unknown, or a value is no array that can be read here.
            SessionError: the runtime failed, or the session is closed.
        """
        opened = self._open
        if opened is None:
            raise SessionError(self._who, "the session is closed", "load the artifact again")
        if len(inputs) != len(self._feeds) or not all(name in inputs for name, _ in self._feeds):
            raise self._wrong_names(inputs)
        # Held until the call is over: a request keeps no reference to the memory that it reads.
        arrays = [(index, self._host(name, inputs[name])) for name, index in self._feeds]
        compiled, requests = opened
        request = requests.get()
        try:
            if request is None:
                request = compiled.create_infer_request()
            for index, array in arrays:
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
            results = list(request.infer(None, share_outputs=True).values())
            return {name: results[index].copy() for name, index in self._fetches}
        except RUNTIME_ERRORS as error:
            expected = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in self.inputs)
            remedy = f"check the inputs' types and shapes ({expected})"
            raise SessionError(self._who, f"the run failed: {_brief(error)}", remedy) from error
        finally:
            requests.put(request)

    def close(self) -> None:
        """Free the model. A call that is running keeps it alive until it returns."""
        self._open = None

    def _host(self, name: str, value: Array) -> np.ndarray[Any, Any]:
        array = value if isinstance(value, np.ndarray) else self._read(name, value, np.from_dlpack)
        flags = array.flags
        if flags.c_contiguous and flags.writeable and array.dtype.isnative:
            return array
        # OpenVINO shares no memory that it may not write, though it writes into no input.
        return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")

    def _read(self, name: str, value: Array, reader: Callable[[Any], Any]) -> Any:
        try:
            return reader(value)
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            why = f"input {name!r} is a {type(value).__name__} that cannot be read without a copy: {error}"
            raise InputError(self._who, why, "pass a numpy array, or a detached tensor in host memory") from error

    def _wrong_names(self, inputs: Mapping[str, Array]) -> InputError:
        names = [name for name, _ in self._feeds]
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        parts = (("missing", missing), ("unknown", unknown))
        told = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in parts if found)
        return InputError(self._who, f"wrong inputs ({told})", f"pass exactly: {', '.join(names)}")


def _places(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> list[tuple[str, int]]:
    """Names with the places of their ports; that all are there was checked when the model was read."""
    pairs = zip(specs, positions(ports, specs), strict=True)
    return [(spec.name, place) for spec, place in pairs if place is not None]


def _brief(error: Exception) -> str:
    """OpenVINO's own sentence, without the places in its source that led there."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(kept) or type(error).__name__
