"""Names and types of a program's inputs and outputs: set when it is written, compared when it is opened.

Core ML has no 64-bit integers and no booleans there: both are 32-bit integers in the program, and a session converts
them to the types of the specs. Names consist of letters, digits and underscores only: "hidden_states.0" becomes
"hidden_states_0".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any

from optimum_core.backend import Port, interface_problems
from optimum_core.types import TensorSpec
from optimum_coreml.shapes import core_ml_dtype

_TYPES = (f"{kind}{bits}" for kind in ("fp", "int", "uint") for bits in (8, 16, 32, 64))
_RESERVED = frozenset(
    ("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16")
).union(_TYPES)
#: Names of the `ArrayFeatureType.ArrayDataType` values.
_ARRAY_TYPES = {65568: "float32", 65600: "float64", 131104: "int32", 65552: "float16", 131080: "int8"}


def feature_name(name: str) -> str:
    """Return the feature name that Core ML uses for an input or output of this name.

    >>> feature_name("hidden_states.0"), feature_name("tensor")
    ('hidden_states_0', 'tensor_')
    """
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    if plain in _RESERVED:
        return f"{plain}_"
    return plain if plain[:1].isalpha() else f"f{plain}"


def problems(spec: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """Return the differences between a program and its specs, in words. A program declares ranks only, and only of
    inputs.
    """
    takes = [_port(feature, (None,) * len(feature.type.multiArrayType.shape)) for feature in spec.description.input]
    gives = [_port(feature, None) for feature in spec.description.output]
    halves = {name for name, dtype, _ in takes if dtype == "float16"}
    return interface_problems(takes, gives, (_features(inputs, halves), _features(outputs)), "program")


def _port(feature: Any, shape: tuple[None, ...] | None) -> Port:
    kind = feature.type.multiArrayType.dataType
    return feature.name, _ARRAY_TYPES.get(kind, str(kind)), shape


def _features(specs: Sequence[TensorSpec], halves: Collection[str] = ()) -> list[TensorSpec]:
    """Return the specs with Core ML's names and types. Inputs of 16 bits may be of 16 in the program too."""
    names = {spec.name: feature_name(spec.name) for spec in specs}
    return [
        dataclasses.replace(
            spec,
            name=names[spec.name],
            dtype="float16" if spec.dtype == "float16" and names[spec.name] in halves else core_ml_dtype(spec.dtype),
        )
        for spec in specs
    ]


_PRODUCTS = ("linear", "matmul", "conv", "conv_transpose", "einsum", "scaled_dot_product_attention")
_FLOAT16 = 10


def compute_precision(spec: Any) -> str:
    """Return the precision of the arithmetic that is stored in a program: "fp16" or "fp32"."""
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    computing = [item for item in operations if item.type in _PRODUCTS] or [
        item for item in operations if item.type not in ("const", "cast") and not item.type.startswith("constexpr")
    ]
    kinds = {out.type.tensorType.dataType for item in computing for out in item.outputs}
    return "fp16" if _FLOAT16 in kinds else "fp32"


def minimum_target(spec: Any) -> str:
    """Return the oldest iOS that runs a program."""
    return f"iOS{spec.specificationVersion + 9}"
