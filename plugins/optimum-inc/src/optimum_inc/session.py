"""Sessions of a compiled package. Its code checks none of its inputs, so everything is checked here first."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch

from optimum_core.backend import check_names, closed, described, foreign_errors, no_options
from optimum_core.errors import OptionError, SessionError
from optimum_core.types import Array, SessionRequest, TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_inc.arrays import tensor_of
from optimum_inc.devices import BACKEND, PACKAGE
from optimum_inc.package import facts_of, open_package, place_problem
from optimum_inc.programs import specs_problem
from optimum_inc.silencing import quiet


class InductorSession:
    """An open package on the CPU. Calls may come from several threads at once; `close` waits for none of them.

    Calls run one after another, each on all threads: torch holds Python's lock for as long as a package runs.

    Raises:
        OptionError: an unknown option, device, precision or format.
        SessionError: the package is damaged, made for another processor or torch, or its inputs and outputs are not
            the artifact's.
    """

    backend = BACKEND
    device = "cpu"

    def __init__(self, request: SessionRequest) -> None:
        path = request.artifact.main_file
        self._who = f"backend '{BACKEND}', {path}"
        _check(request)
        facts = facts_of(path, self._who)
        problem = specs_problem(facts["specs"], request.artifact.inputs, request.artifact.outputs)
        if problem:
            remedy = "quantize the model again: file and manifest do not belong together"
            raise SessionError(self._who, problem, remedy)
        problem = place_problem(facts, request.hardware)
        if problem:
            raise SessionError(self._who, problem, "quantize the model again, on this machine")
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs
        self._remedy = f"check the inputs' types and shapes ({described(self.inputs)})"
        self._names = [spec.name for spec in self.inputs]
        self._limits: dict[str, int] = facts["limits"]
        tables = facts["tables"]
        self._tables = [(spec.name, i, tables[spec.name]) for i, spec in enumerate(self.inputs) if spec.name in tables]
        self._types = [getattr(torch, spec.dtype) for spec in self.inputs]
        self._turn = threading.Lock()
        self._threads = request.threads or request.hardware.cpu.usable_cores
        with quiet():
            self._runner: Any = open_package(path, self._who)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return outputs by name, in memory of their own.

        Raises:
            InputError: a name is missing or unknown, or a value is no array that can be read here.
            SessionError: a type or shape is not the model's, the run failed, or the session is closed.
        """
        runner = self._runner
        if runner is None:
            raise closed(self._who)
        check_names(self._who, self._names, inputs)
        tensors = [tensor_of(spec.name, inputs[spec.name], self._who) for spec in self.inputs]
        self._check_tensors(tensors)
        given = {tensor.data_ptr() for tensor in tensors}
        made = self._called(runner, tensors)
        arrays: Arrays = {}
        for spec, tensor in zip(self.outputs, made, strict=True):
            if tensor.data_ptr() in given:  # two outputs may be one tensor, and an input may be returned unchanged
                tensor = tensor.clone()
            given.add(tensor.data_ptr())
            arrays[spec.name] = tensor.numpy()
        return arrays

    def close(self) -> None:
        """Free the model. A call that is running keeps it alive until it returns."""
        self._runner = None

    def _called(self, runner: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        before = torch.get_num_threads()  # the setting is the calling thread's
        if before != self._threads:
            torch.set_num_threads(self._threads)
        try:
            # Torch waits for a free runner while it holds Python's lock, which the call in progress may need to finish.
            with self._turn, foreign_errors(self._who, SessionError, self._remedy, doing="the run failed"):
                made: list[torch.Tensor] = runner.boxed_run(tensors)
            return made
        finally:
            if before != self._threads:
                torch.set_num_threads(before)

    def _check_tensors(self, tensors: list[torch.Tensor]) -> None:
        lengths: dict[str, int] = {}
        for spec, dtype, tensor in zip(self.inputs, self._types, tensors, strict=True):
            shape = tensor.shape
            if tensor.dtype is not dtype or len(shape) != len(spec.shape):
                raise self._failed(f"the run failed: input {spec.name!r} is {tensor.dtype}{list(shape)}")
            for axis, length in zip(spec.shape, shape, strict=True):
                wanted = axis if isinstance(axis, int) else lengths.setdefault(axis, length)
                if length != wanted or length < 1:
                    why = f"the run failed: input {spec.name!r} has length {length} on axis {axis!r}, not {wanted}"
                    raise self._failed(why)
        for axis, most in self._limits.items():
            if lengths.get(axis, 0) > most:
                raise self._failed(f"the run failed: axis {axis!r} has length {lengths[axis]}, and at most {most}")

        # An index beyond a table ends the process: generated code throws where nothing can catch.
        for name, place, rows in self._tables:
            low, high = tensors[place].aminmax()
            if int(low) < 0 or int(high) >= rows:
                why = f"the run failed: input {name!r} has values from {int(low)} to {int(high)}"
                raise self._failed(f"{why}, and the model knows 0 to {rows - 1}")

    def _failed(self, why: str) -> SessionError:
        return SessionError(self._who, why, self._remedy)


def _check(request: SessionRequest) -> None:
    who = f"backend '{BACKEND}'"
    no_options(who, request.options)
    if request.artifact.format != PACKAGE:
        raise OptionError(who, f"it does not run {request.artifact.format!r}", f"quantize to {PACKAGE!r}")
    if request.device != "cpu":
        raise OptionError(who, f"unknown device {request.device!r}", "use 'cpu'")
    if request.precision != "fp32":
        raise OptionError(who, f"it does not compute in {request.precision!r}", "use 'fp32'")
