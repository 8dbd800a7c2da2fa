"""The precision that an IR holds: that of its arithmetic, or the scheme by which it was quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import Any

from optimum_core.errors import ArtifactError

_FLOATS = {"f64": "fp32", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
#: Number formats of weights by OpenVINO's element types, the narrowest first.
_WEIGHTS = {
    "nf4": "nf4", "i4": "int4", "u4": "int4", "f8e4m3": "fp8", "f8e5m2": "fp8", "i8": "int8", "u8": "int8",
    "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp32",
}  # fmt: skip
#: Types of numbers that are no weights: places, masks, texts.
_NO_WEIGHTS = frozenset({"boolean", "string", "i16", "i32", "i64", "u1", "u16", "u32", "u64", "f8e8m0"})
#: Operations that round activations, with the number format that they round to where it is stated by their kind.
_FAKE, _FAKE_FLOAT = "FakeQuantize", "FakeConvert"
_LEVELS_OF_4_BITS = 16
#: The greatest weight whose products with 8-bit activations do not overflow 16 bits in pairs, and the middle of types.
_SEVEN_BITS, _MIDDLES = 64, {"i8": 0, "u8": 128}
#: The least share of the weights in a type that names the whole: scales and zero points have less.
_SHARE = 0.1


def precision_of(model: Any, who: str) -> str:
    """Return "fp32", "bf16" or "fp16" where the weights are of the arithmetic's type, else a quantization scheme.

    Weights of several types are named after the narrowest one that holds a tenth of them.

    Raises:
        ArtifactError: most of the weights are of a type that has no name here.
    """
    operations = model.get_ops()
    if (rounded := _activations(operations)) is not None:
        return f"static-{rounded}"
    held = _weights(operations)
    wide = sum(held.values()) * _SHARE
    for kind in held:
        if kind not in _WEIGHTS and held[kind] > wide:
            why = f"its weights are of the type {kind}, which has no name here"
            raise ArtifactError(who, why, "give the checkpoint that it was made from")
    found = next((kind for kind in _WEIGHTS if held[kind] > wide), "f32")
    if found in _FLOATS and not _is_widened(operations, found):
        return _FLOATS[found]
    return f"weight-only-{_WEIGHTS[found]}"


def multiplies_all_bits(model: Any) -> bool:
    """Whether activations are rounded, and weights of 8 bits may be greater than 7 bits hold."""
    operations = model.get_ops()
    return _activations(operations) is not None and any(map(_exceeds, operations))


def _exceeds(operation: Any) -> bool:
    if operation.get_type_name() == _FAKE:  # weights that are rounded when the model is compiled
        return _is_constant(operation.input_value(0).get_node())
    middle = _MIDDLES.get(_constant_type(operation))
    if middle is None or len(operation.get_output_shape(0)) < 2 or not operation.data.size:
        return False
    least, greatest = int(operation.data.min()), int(operation.data.max())
    return max(middle - least, greatest - middle) > _SEVEN_BITS


def _weights(operations: Iterable[Any]) -> Counter[str]:
    """Return the number of elements of constants with two axes or more, by type."""
    found: Counter[str] = Counter()
    for operation in operations:
        kind = _constant_type(operation)
        if kind and kind not in _NO_WEIGHTS and len(operation.get_output_shape(0)) > 1:
            found[kind] += prod(operation.get_output_shape(0))
    return found


def _constant_type(operation: Any) -> str:
    """Return the element type of a constant; empty: the operation is none."""
    if operation.get_type_name() != "Constant":
        return ""
    return str(operation.get_output_element_type(0).get_type_name())


def _is_widened(operations: Iterable[Any], kind: str) -> bool:
    """Whether constants of that type are converted to 32 bits before they are used."""
    return any(
        reader.get_node().get_type_name() == "Convert"
        and reader.get_node().get_output_element_type(0).get_type_name() == "f32"
        for operation in operations
        if _constant_type(operation) == kind != "f32" and len(operation.get_output_shape(0)) > 1
        for reader in operation.output(0).get_target_inputs()
    )


def _activations(operations: Iterable[Any]) -> str | None:
    """Return the number format to which values computed from the inputs are rounded; None: they stay in floats."""
    for operation in operations:
        kind = operation.get_type_name()
        if kind in (_FAKE, _FAKE_FLOAT) and not _is_constant(operation.input_value(0).get_node()):
            levels = operation.get_attributes().get("levels", 256)
            return "fp8" if kind == _FAKE_FLOAT else "int4" if levels <= _LEVELS_OF_4_BITS else "int8"
    return None


def _is_constant(node: Any) -> bool:
    """Whether a value is a constant, perhaps converted or reshaped."""
    while node.get_type_name() in ("Convert", "Reshape", "Multiply", "Subtract", "Transpose"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
