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
