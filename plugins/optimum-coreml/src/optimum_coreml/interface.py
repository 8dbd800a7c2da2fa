"""Names and types at the edge of a program: given when it is written, compared when it is opened.

Core ML has no 64-bit integers and no booleans there: both are 32-bit integers in the program, and a session turns them
into what the specs say. Names may hold letters, digits and underscores only: "hidden_states.0" is "hidden_states_0".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from optimum_core.types import TensorSpec
from optimum_coreml.shapes import core_ml_dtype

_TYPES = (f"{kind}{bits}" for kind in ("fp", "int", "uint") for bits in (8, 16, 32, 64))
_RESERVED = frozenset(
    ("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16")
).union(_TYPES)
#: `ArrayFeatureType.ArrayDataType` in words.
_ARRAY_TYPES = {65568: "float32", 65600: "float64", 131104: "int32", 65552: "float16", 131080: "int8"}


def feature_name(name: str) -> str:
    """What Core ML calls an input or output of this name.

    >>> feature_name("hidden_states.0"), feature_name("tensor")
    ('hidden_states_0', 'tensor_')
    """
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    if plain in _RESERVED:
        return f"{plain}_"
    return plain if plain[:1].isalpha() else f"f{plain}"


def problems(spec: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """How a program differs from what is said of it, in words. It may have further outputs, and no further inputs."""
    found = []
    for kind, features, specs in (
        ("input", spec.description.input, inputs),
        ("output", spec.description.output, outputs),
    ):
        known = {feature.name: feature.type.multiArrayType for feature in features}
        for item in specs:
            array = known.pop(feature_name(item.name), None)
            found += [f"the program has no {kind} '{item.name}'"] if array is None else _differences(kind, item, array)
        if kind == "input":
            found += [f"the program also takes input '{name}'" for name in known]
    return found


def _differences(kind: str, item: TensorSpec, array: Any) -> list[str]:
    said = f"{kind} '{item.name}' is {{}} in the program, not {{}}"
    dtype = _ARRAY_TYPES.get(array.dataType, str(array.dataType))
    if dtype != core_ml_dtype(item.dtype) and not (kind == "input" and item.dtype == "float16" == dtype):
        return [said.format(dtype, core_ml_dtype(item.dtype))]
    if kind == "input" and len(array.shape) != len(item.shape):
        return [said.format(list(array.shape), list(item.shape))]
    return []


def declared_shapes(spec: Any) -> dict[str, Any]:
    """By input name, what lengths it may have: a list of shapes, or a list of (least, greatest) by axis."""
    return {feature.name: _declared(feature.type.multiArrayType) for feature in spec.description.input}


def _declared(array: Any) -> list[tuple[int, ...]] | list[tuple[int, int]]:
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        return [tuple(int(length) for length in item.shape) for item in array.enumeratedShapes.shapes]
    if flexible == "shapeRange":
        return [(int(item.lowerBound), int(item.upperBound)) for item in array.shapeRange.sizeRanges]
    return [tuple(int(length) for length in array.shape)]


def shape_problem(array: Any, shape: tuple[int, ...]) -> str | None:
    """Why Core ML would not take an input of this shape; None where it would."""
    flexible, declared = array.WhichOneof("ShapeFlexibility"), _declared(array)
    if flexible == "shapeRange":
        fits = len(shape) == len(declared) and all(
            least <= length and (greatest < 0 or length <= greatest)
            for length, (least, greatest) in zip(shape, declared, strict=True)
        )
        ranges = " x ".join(str(a) if a == b else f"{a} to {b}" for a, b in declared)
        return None if fits else f"it is {shape}, and the program takes {ranges}"
    if shape in declared:
        return None
    return f"it is {shape}, and the program takes {' or '.join(map(str, declared))}"


_PRODUCTS = ("linear", "matmul", "conv", "conv_transpose", "einsum", "scaled_dot_product_attention")
_FLOAT16 = 10


def compute_precision(spec: Any) -> str:
    """The arithmetic that is written in a program: "fp16" or "fp32"."""
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    computing = [item for item in operations if item.type in _PRODUCTS] or [
        item for item in operations if item.type not in ("const", "cast") and not item.type.startswith("constexpr")
    ]
    kinds = {out.type.tensorType.dataType for item in computing for out in item.outputs}
    return "fp16" if _FLOAT16 in kinds else "fp32"


def minimum_target(spec: Any) -> str:
    """The oldest iOS that runs a program."""
    return f"iOS{spec.specificationVersion + 9}"
