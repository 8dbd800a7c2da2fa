"""Comparison of the interface that a model file declares with its artifact's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimum_core.backend import Port, interface_problems
from optimum_core.errors import SessionError
from optimum_core.types import Artifact

_DTYPES = {
    "bfloat16": "bfloat16",
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "float16": "float16",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "int8": "int8",
    "string": "object",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "uint8": "uint8",
}


def declared(arguments: Sequence[Any]) -> list[Port]:
    """Return `session.get_inputs()` or `session.get_outputs()` as ports."""
    return [(item.name, _dtype(item.type), tuple(item.shape)) for item in arguments]


def _dtype(kind: str) -> str:
    return _DTYPES.get(kind.removeprefix("tensor(").removesuffix(")"), kind)


def check_interface(who: str, artifact: Artifact, session: Any) -> None:
    """Compare `artifact` with an open `onnxruntime.InferenceSession`.

    Raises:
        SessionError: names, element types, ranks or fixed lengths differ.
    """
    inputs = declared(session.get_inputs())
    # An output whose shape the file does not declare appears without axes.
    outputs = [(name, dtype, shape or None) for name, dtype, shape in declared(session.get_outputs())]
    problems = interface_problems(inputs, outputs, (artifact.inputs, artifact.outputs))
    if problems:
        remedy = "export the model again: file and manifest do not belong together"
        raise SessionError(who, "; ".join(problems), remedy)
