"""Sessions of an ONNX model.

The calling convention was chosen by measurement (onnxruntime 1.31, one thread, microseconds per call, smallest
of seven rounds; model: one MatMul and Relu):

| way | 1x4 to 1x4 | 16x384 to 16x2 | 8x64 to 8x30522 |
|---|---|---|---|
| `InferenceSession.run` | 4.6 | 6.0 | 465 |
| the binding below it (`_sess.run`, taken) | 3.7 | 5.2 | 455 |
| a new IO binding | 7.1 | 8.9 | 531 |
| IO binding, outputs allocated by numpy | 8.9 | 10.8 | 494 |
| `run_with_ort_values` | 35.7 | 37.3 | 513 |

`InferenceSession.run` checks names, which is done here in less time, and OrtValues, which are not passed. After other
work, when the processor's caches hold none of its code, its checks take 20 to 30 microseconds.

Outputs are not allocated ahead: that is slower. IO binding is used where data stays on a device, and OrtValues where
numpy lacks the element type (bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from optimum_core.backend import check_names, closed, described, read_input, read_options
from optimum_core.errors import SessionError
from optimum_core.types import Array, SessionRequest, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_ort.devices import BACKEND, Provider, parse_device
from optimum_ort.interface import check_interface
from optimum_ort.options import OrtOptions
from optimum_ort.runtime import RUNTIME_ERRORS, leave_pairs, open_session, session_options
from optimum_ort.schemes import exact_sums, float_products

_ARRAY = np.ndarray
_HOST = 1  # DLPack's number of the CPU
_ONNX_BFLOAT16 = 16
_NOT_NUMPY = frozenset({"bfloat16"})


class DeviceArray:
    """An output that numpy cannot hold, or that stays on the device. Speaks DLPack; shares the runtime's memory."""

    __slots__ = ("_value", "dtype", "shape")

    def __init__(self, value: Any, dtype: str) -> None:
        self._value = value
        self.dtype = dtype
        self.shape: tuple[int, ...] = tuple(value.shape())

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self._value.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._value.__dlpack_device__()
        return int(kind), int(index)


class OrtSession:
    """An open model on one device. Calls may come from several threads at once; `close` waits for none of them.

    With `request.streams` calls side by side, the thread pool shrinks so that callers and pool threads together fill
    the usable cores: every caller works on its own call, and the pool is shared.

    Raises:
        OptionError: an unknown option or device.
        SessionError: the model cannot be opened on that device, or its inputs and outputs are not the artifact's.
    """

    backend = BACKEND

    def __init__(self, request: SessionRequest) -> None:
        provider, index = parse_device(request.device)
        session = opened(request)
        self._who = f"backend '{BACKEND}', {request.artifact.main_file}"
        check_interface(self._who, request.artifact, session)
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs
        self.device = f"{provider.device}:{index}" if provider.vendor or provider.device == "dml" else provider.device
        self._index = index
        self._session: Any = session
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._has_inner_session = hasattr(session, "_sess")  # it is private: another version may have none
        self._call = self._choose_call(provider)
        self._runs: list[Any] = []  # the runtime's own function, while the session is open
        if self._has_inner_session and self._call == self._run_numpy:
            self._runs.append(session._sess.run)
            self.direct = _direct(self._runs, self._output_names)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return outputs by name. Inputs are C-contiguous host arrays or are made so; numpy arrays are not copied
        otherwise.

        Raises:
            InputError: a name is missing or unknown, or a value is no array that this device can read.
            SessionError: the runtime failed, or the session is closed.
        """
        session = self._session
        if session is None:
            raise closed(self._who)
        try:
            return self._call(session, inputs)
        except RUNTIME_ERRORS as error:
            check_names(self._who, self._input_names, inputs)
            remedy = f"check the inputs' types and shapes ({described(self.inputs)})"
            raise SessionError(self._who, f"the run failed: {error}", remedy) from error

    def close(self) -> None:
        """Free the model. A call that is running keeps it alive until it returns."""
        self._session = None
        self._runs.clear()

    def _choose_call(self, provider: Provider) -> Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]:
        if provider.binds:
            return self._run_bound
        if any(spec.dtype in _NOT_NUMPY for spec in (*self.inputs, *self.outputs)):
            return self._run_values
        return self._run_numpy

    def _run_numpy(self, session: Any, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if len(inputs) != len(self.inputs):  # an operator may do without an input: then nothing would fail
            check_names(self._who, self._input_names, inputs)
        feed: Mapping[str, Any] = inputs
        for value in inputs.values():
            if type(value) is not _ARRAY or not value.dtype.isnative:
                feed = {name: self._host(name, one) for name, one in inputs.items()}
                break
        names, runner = self._output_names, session._sess if self._has_inner_session else session
        return dict(zip(names, runner.run(names, feed, None), strict=True))

    def _run_values(self, session: Any, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        feed = {name: self._value(name, value) for name, value in inputs.items()}
        results = session.run_with_ort_values(self._output_names, feed)
        pairs = zip(self.outputs, results, strict=True)
        return {
            spec.name: DeviceArray(value, spec.dtype) if spec.dtype in _NOT_NUMPY else value.numpy()
            for spec, value in pairs
        }

    def _run_bound(self, session: Any, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run with device memory in and out; where every input is on the host, outputs are copied to the host."""
        binding = session.io_binding()
        on_host = True
        for name, value in inputs.items():
            if _is_on_host(value):
                binding.bind_ortvalue_input(name, self._value(name, value))
            else:
                on_host = False
                binding.bind_ortvalue_input(name, onnxruntime.OrtValue.from_dlpack(value))
        for name in self._output_names:
            if on_host:
                binding.bind_output(name)
            else:
                binding.bind_output(name, "cuda", self._index)
        # The library that made the inputs may still be writing them on a stream of its own.
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        pairs = zip(self.outputs, binding.get_outputs(), strict=True)
        return {
            spec.name: value.numpy() if on_host and spec.dtype not in _NOT_NUMPY else DeviceArray(value, spec.dtype)
            for spec, value in pairs
        }

    def _value(self, name: str, value: Array) -> Any:
        if not isinstance(value, np.ndarray) and "bfloat16" in str(getattr(value, "dtype", "")):
            return self._read(name, value, onnxruntime.OrtValue.from_dlpack)
        array = self._host(name, value)
        if array.dtype.name == "bfloat16":  # numpy holds it with the package ml_dtypes
            bits = array.view(np.uint16)
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def _host(self, name: str, value: Array) -> NDArray:
        array = value if isinstance(value, np.ndarray) else self._read(name, value, np.from_dlpack)
        if array.flags.c_contiguous and array.dtype.isnative:
            return array
        # ONNX Runtime reads an array of foreign byte order as if it were native: convert, or results are garbage.
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))

    def _read(self, name: str, value: Array, reader: Callable[[Any], Any]) -> Any:
        return read_input(self._who, name, value, reader, f"in the memory of device '{self.device}'")


def opened(request: SessionRequest) -> Any:
    """Return the artifact, opened as an `onnxruntime.InferenceSession` as the request says.

    Raises:
        OptionError: an unknown option or device.
        SessionError: the model cannot be opened on that device.
    """
    provider, index = parse_device(request.device)
    options = read_options(BACKEND, OrtOptions, request.options)
    made = session_options(options, provider, _pool_size(request))
    artifact = request.artifact
    for name, value in (float_products(artifact) | exact_sums(artifact, request.hardware.cpu)).items():
        made.add_session_config_entry(name, value)
    if artifact.precision == "fp8":
        leave_pairs(made)
    return open_session(artifact.main_file, made, provider, index, options)


def _pool_size(request: SessionRequest) -> int:
    threads = request.threads or request.hardware.cpu.usable_cores
    return max(1, threads - (request.streams or 1) + 1)


def _is_on_host(value: Array) -> bool:
    # Without DLPack it counts as host data, so that reading it there raises the error that explains it.
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return True
    return int(value.__dlpack_device__()[0]) == _HOST


def _direct(runs: list[Any], names: Sequence[str]) -> Callable[[Mapping[str, Array]], Sequence[Any]]:
    """Return a session's `direct`: it runs numpy arrays of the inputs' types, and raises where `runs` is empty.

    Most calls come here, and each attribute that is looked up after an inference costs microseconds.
    """

    def direct(inputs: Mapping[str, Array]) -> Sequence[Any]:
        found: Sequence[Any] = runs[0](names, inputs, None)
        return found

    return direct
