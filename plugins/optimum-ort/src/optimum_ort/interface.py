"""What a model file declares, compared with what its artifact says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimum_core.errors import SessionError
from optimum_core.types import Artifact, TensorSpec

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


def declared(arguments: Sequence[Any]) -> dict[str, TensorSpec]:
    """Tensor specs of `session.get_inputs()` or `session.get_outputs()`, by name. An unnamed axis is "?"."""
    specs = {}
    for argument in arguments:
        kind = argument.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple("?" if axis is None else axis for axis in argument.shape)
        specs[argument.name] = TensorSpec(name=argument.name, dtype=_DTYPES.get(kind, argument.type), shape=shape)
    return specs


def check_interface(who: str, artifact: Artifact, session: Any) -> None:
    """Compare `artifact` with an open `onnxruntime.InferenceSession`.

    The model may be more general than the artifact says (an axis that was not proved to vary is fixed there), and
    may have further outputs; never the other way round.

    Raises:
        SessionError: names, element types, ranks or fixed lengths differ.
    """
    inputs, outputs = declared(session.get_inputs()), declared(session.get_outputs())
    problems = [f"the model also takes input '{name}'" for name in inputs.keys() - {s.name for s in artifact.inputs}]
    for kind, specs, found in (("input", artifact.inputs, inputs), ("output", artifact.outputs, outputs)):
        for spec in specs:
            problems += _differences(kind, spec, found.get(spec.name))
    if problems:
        remedy = "export the model again: file and manifest do not belong together"
        raise SessionError(who, "; ".join(problems), remedy)


def _differences(kind: str, spec: TensorSpec, found: TensorSpec | None) -> list[str]:
    if found is None:
        return [f"the model has no {kind} '{spec.name}'"]
    said = f"{kind} '{spec.name}' is {{}} in the model and {{}} in the artifact"
    if found.dtype != spec.dtype:
        return [said.format(found.dtype, spec.dtype)]
    fits = _input_fits if kind == "input" else _output_fits
    if not fits(spec.shape, found.shape):
        return [said.format(list(found.shape), list(spec.shape))]
    return []


def _input_fits(said: tuple[int | str, ...], found: tuple[int | str, ...]) -> bool:
    if len(said) != len(found):
        return False
    return all(isinstance(there, str) or here == there for here, there in zip(said, found, strict=True))


def _output_fits(said: tuple[int | str, ...], found: tuple[int | str, ...]) -> bool:
    # Lengths that a file declares for outputs are remarks of its exporter, which the runtime does not obey: a length
    # that contradicts another is an error, one where the artifact has a name is not. No shape at all reads as ().
    if not found:
        return True
    if len(said) != len(found):
        return False
    pairs = zip(said, found, strict=True)
    return all(isinstance(here, str) or isinstance(there, str) or here == there for here, there in pairs)
