"""Lengths of a call's outputs: an axis that has an input axis's name has its length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimum_core.errors import SessionError
from optimum_core.types import TensorSpec

#: Maximum number of combinations of shapes that are remembered as right.
_MOST_SEEN = 256


class OutputLengths:
    """Checker of outputs, once for each combination of the inputs' shapes.

    A loop over pieces is exported with as many as the traced length has. Beyond, what is left out shows in the shape.

    Args:
        who: the model, for errors.
        inputs, outputs: its specs.
    """

    def __init__(self, who: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._who = who
        self._places = {
            axis: (spec.name, index) for spec in reversed(inputs) for index, axis in spec.dynamic_axes.items()
        }
        self._followed = [
            (spec.name, index, *self._places[axis])
            for spec in outputs
            for index, axis in spec.dynamic_axes.items()
            if axis in self._places
        ]
        self._seen: set[tuple[Any, ...]] = set()

    def check(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Refuse outputs with other lengths than the inputs give them.

        Raises:
            SessionError: one has another length.
        """
        key = tuple([(name, value.shape) for name, value in inputs.items()])
        if key in self._seen:
            return
        for name, index, of, place in self._followed:
            shape = getattr(outputs[name], "shape", None)  # an object of a runtime may have none
            if shape is None or of not in inputs or len(shape) <= index:
                continue
            expected = inputs[of].shape[place]
            if shape[index] != expected:
                raise self._error(name, tuple(shape), index, of, place, expected)
        if len(self._seen) >= _MOST_SEEN:
            self._seen = set()
        self._seen.add(key)

    def _error(self, name: str, shape: tuple[int, ...], index: int, of: str, place: int, expected: int) -> SessionError:
        why = (
            f"output {name!r} came with shape {shape}, and its axis {index} should have length {expected}, as axis "
            f"{place} of input {of!r}: the graph was exported with a fixed number of steps, which these lengths exceed"
        )
        return SessionError(
            self._who, why, "accelerate it with shapes= or sample_inputs= of that length, or call the eager model"
        )
