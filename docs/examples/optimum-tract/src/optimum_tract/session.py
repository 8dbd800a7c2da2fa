"""A model that tract has opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tract

from optimum_core.backend import check_names, closed, foreign_errors, no_options, read_input
from optimum_core.errors import InputError, SessionError
from optimum_core.types import Array, SessionRequest, TensorSpec
from optimum_tract.plugin import NAME, ROWS

Numpy = np.ndarray[Any, Any]


class TractSession:
    """An open model on the CPU. Calls may come from several threads at once: each has a state of its own."""

    backend = NAME
    device = "cpu"

    def __init__(self, request: SessionRequest) -> None:
        no_options(f"backend {NAME!r}", request.options)
        path = request.artifact.main_file
        self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs
        self._rows: Mapping[str, int] = request.artifact.steps[-1].options[ROWS]
        self._who = f"backend {NAME!r}, {path}"
        with foreign_errors(self._who, SessionError, "accelerate the model again", doing="it cannot be opened"):
            self._model: Any = tract.onnx().load(path).into_model().into_runnable()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Numpy]:
        """Return new arrays by output name."""
        model = self._model
        if model is None:
            raise closed(self._who)
        check_names(self._who, [spec.name for spec in self.inputs], inputs)
        feed = [self._array(spec, inputs[spec.name]) for spec in self.inputs]
        with foreign_errors(self._who, SessionError, "check the inputs' shapes and values", doing="the run failed"):
            made = model.run(feed)
            # `to_numpy` copies: what it returns outlives the tensor.
            return {spec.name: tensor.to_numpy() for spec, tensor in zip(self.outputs, made, strict=True)}

    def _array(self, spec: TensorSpec, value: Array) -> Numpy:
        """Return an input as contiguous numpy, others than numpy's read through DLPack."""
        array = value if isinstance(value, np.ndarray) else read_input(self._who, spec.name, value, np.from_dlpack)
        if array.dtype.name != spec.dtype or array.ndim != len(spec.shape):
            why = f"input {spec.name!r} is {array.dtype}{list(array.shape)}"
            raise InputError(self._who, why, f"give {spec.dtype}{list(spec.shape)}")
        rows = self._rows.get(spec.name)
        if rows is not None and array.size and not 0 <= array.min() <= array.max() < rows:
            why = f"input {spec.name!r} has values from {array.min()} to {array.max()}"
            raise InputError(self._who, why, f"give values from 0 to {rows - 1}")
        return np.ascontiguousarray(array)

    def close(self) -> None:
        """Let go of the model; a second call has no effect."""
        self._model = None
