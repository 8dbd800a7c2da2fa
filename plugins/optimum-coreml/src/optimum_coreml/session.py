"""Sessions of an ML program: through Core ML on a Mac; elsewhere, for verification, through the interpreter.

Core ML's inputs and outputs have 32-bit integers only: 64-bit integers and booleans of the artifact's specs are
converted here, both ways. A number that does not fit is an error.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from optimum_core.backend import check_names, closed, foreign_errors, read_input, read_options
from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.types import Array, SessionRequest, TensorSpec
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_coreml.devices import BACKEND, GRAPH_LEVEL, units_of
from optimum_coreml.interface import compute_precision, feature_name, problems
from optimum_coreml.lengths import lengths_of, shape_problem, taken_shapes
from optimum_coreml.options import CoreMlOptions
from optimum_coreml.storage import package_of, read_program, weights_file
from optimum_coreml.texts import Texts, program_specs

_INT32 = np.iinfo(np.int32)


class _Engine(Protocol):
    """Interface of the runtimes: arrays in and out by Core ML's names, in the program's types."""

    def __call__(self, inputs: Arrays) -> ArrayMapping: ...


def open_session(request: SessionRequest) -> CoreMlSession:
    """Open a package on the compute units that the device names.

    Raises:
        OptionError: an unknown option or device.
        SessionError: the package cannot be read, has another precision than was requested, has other inputs and
            outputs than the artifact, or has operators that cannot be run here.
        UnavailableError: the runtime that it needs here is not installed.
    """
    units = units_of(request.device)
    read_options(BACKEND, CoreMlOptions, request.options)
    who = f"backend '{BACKEND}', {package_of(request.artifact)}"
    spec = read_program(package_of(request.artifact), who)
    inputs, outputs = request.artifact.inputs, request.artifact.outputs
    found = problems(spec, *(program_specs(outputs) if spec.description.state else (inputs, outputs)))
    if found:
        raise SessionError(who, "; ".join(found), "export the model again")
    precision = compute_precision(spec)
    if request.precision != precision:
        why = f"the program computes in {precision}, not in {request.precision}"
        raise SessionError(who, why, f"ask for {precision!r}, or optimize the artifact to {request.precision!r} first")
    if sys.platform == "darwin":
        return CoreMlSession(request, spec, _core_ml(request, spec, units, who), request.device, who)
    engine = _interpreter(request, spec, who)
    return CoreMlSession(request, spec, engine, f"{request.device.partition(':')[0]}:graph", who)


class CoreMlSession:
    """An open program. Calls may come from several threads.

    A session of a stateful program has one state, and its calls take turns (`optimum_coreml.texts`): texts that are
    generated side by side need a session each.

    Attributes:
        device: the compute units; with ":graph" where Core ML is absent and the interpreter runs it.
        level: the meaning of a result, in words.
        lengths: lengths of the named axes that the program accepts.
    """

    backend = BACKEND

    def __init__(self, request: SessionRequest, spec: Any, engine: _Engine, device: str, who: str) -> None:
        self._who = who
        in_pieces = device.endswith(":graph")
        self._engine: _Engine | None = Texts(engine, in_pieces=in_pieces) if spec.description.state else engine
        self.device = device
        self.level = GRAPH_LEVEL if device.endswith(":graph") else "Core ML"
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs
        self._taken = taken_shapes(spec, self.inputs)
        self.lengths = lengths_of(self._taken, self.inputs)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return outputs by name, in memory of their own and in the specs' types.

        Raises:
            InputError: a name is missing or unknown, a value cannot be read, has a shape that the program does not
                take, or does not fit into 32 bits.
            SessionError: the run failed, or the session is closed.
        """
        engine = self._engine
        if engine is None:
            raise closed(self._who)
        check_names(self._who, [spec.name for spec in self.inputs], inputs)
        given = {feature_name(spec.name): self._read(spec, inputs[spec.name]) for spec in self.inputs}
        failures = (RuntimeError, ValueError, KeyError, TypeError)
        with foreign_errors(
            self._who, SessionError, "check the inputs' values", doing="the run failed", catching=failures
        ):
            found = engine(given)
            return {spec.name: _as_said(spec, found[feature_name(spec.name)]) for spec in self.outputs}

    def close(self) -> None:
        """Free the program and its state. A call that is running keeps them until it returns."""
        self._engine = None

    def _read(self, spec: TensorSpec, value: Array) -> NDArray:
        foreign = not isinstance(value, np.ndarray)
        array: Any = read_input(self._who, spec.name, value, np.from_dlpack) if foreign else value
        if array.dtype.name != spec.dtype:
            why = f"input {spec.name!r} is {array.dtype.name}, not {spec.dtype}"
            raise InputError(self._who, why, f"convert it to {spec.dtype}")
        problem = shape_problem(self._taken[spec.name], array.shape)
        if problem:
            raise InputError(self._who, f"input {spec.name!r}: {problem}", "export with other bounds or shapes")
        if array.dtype == np.int64 and array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
            why = f"input {spec.name!r} has numbers beyond 32 bits, which is all that Core ML has"
            raise InputError(self._who, why, "give smaller ones")
        kind = np.int32 if spec.dtype in ("int64", "bool") else array.dtype
        return np.array(array, dtype=kind, order="C")


def _as_said(spec: TensorSpec, array: NDArray) -> NDArray:
    return np.array(array, dtype=np.dtype(spec.dtype), order="C")


def _interpreter(request: SessionRequest, spec: Any, who: str) -> _Engine:
    try:
        import torch
    except ImportError as error:
        remedy = "pip install 'optimum-core[export]', or open it on a Mac"
        raise UnavailableError(who, "torch is not installed, with which programs are checked here", remedy) from error
    from optimum_coreml_interpreter import Program

    program = Program(spec, weights_file(package_of(request.artifact)), who)
    states = program.states()  # with state, calls take turns

    def run(inputs: Arrays) -> ArrayMapping:
        tensors = {name: torch.from_numpy(array).to(program.input_type(name)) for name, array in inputs.items()}
        found = program.run(tensors, states)
        return {name: value.numpy() for name, value in found.items()}

    return run


def _core_ml(request: SessionRequest, spec: Any, units: str, who: str) -> _Engine:
    """Return an engine that calls `MLModel.predict`: written against coremltools 9.0; not run where it was written."""
    from optimum_coreml.coremltools_adapter import coremltools

    ct = coremltools()
    try:
        model = ct.models.MLModel(str(package_of(request.artifact)), compute_units=getattr(ct.ComputeUnit, units))
        state = model.make_state() if spec.description.state else None
    except (RuntimeError, ValueError, OSError) as error:
        why = f"Core ML cannot load it for {units}: {error}"
        raise SessionError(who, why, "use device 'cpu_only', or export for an older minimum target") from error
    turn = threading.Lock()

    def run(inputs: Arrays) -> ArrayMapping:
        with turn:  # an `MLModel` is for one thread at a time
            found: ArrayMapping = model.predict(inputs) if state is None else model.predict(inputs, state)
        return found

    return run
