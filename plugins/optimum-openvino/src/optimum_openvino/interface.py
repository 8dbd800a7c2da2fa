"""Names and shapes of an `openvino.Model`: set after a conversion, compared when it is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimum_core.backend import Port, interface_problems
from optimum_core.types import TensorSpec

_DTYPES = {
    "bf16": "bfloat16",
    "boolean": "bool",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "i8": "int8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "u8": "uint8",
}


def dtype_of(port: Any) -> str | None:
    """Return numpy's name of a port's element type; None: it has none."""
    return _DTYPES.get(port.get_element_type().get_type_name())


def name_ports(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give the inputs and outputs of a model the names of specs, in order.

    Two outputs, or an input and an output, may be one tensor, which then has both names. Of such a tensor a file keeps
    the outputs' names alone, so that inputs have theirs as names of their operations too.
    """
    ports, specs = [*model.inputs, *model.outputs], [*inputs, *outputs]
    for port in ports:
        port.get_tensor().set_names(set())
    for port, spec in zip(ports, specs, strict=True):
        port.get_tensor().add_names({spec.name})
    for port, spec in zip(model.inputs, inputs, strict=True):
        port.get_node().set_friendly_name(spec.name)


def fixed(spec: TensorSpec, lengths: Mapping[str, int]) -> list[int]:
    """Return the shape with these lengths of its named axes, all of which must be given."""
    return [lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape]


def fix_axes(model: Any, specs: Sequence[TensorSpec]) -> None:
    """Fix the inputs' axes that `specs` fix: `torch.export` leaves every axis dynamic.

    Raises:
        RuntimeError: shapes no longer match each other, in OpenVINO's words.
    """
    shapes = {}
    for index, (port, spec) in enumerate(zip(model.inputs, specs, strict=True)):
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic or len(shape) != len(spec.shape):
            continue
        for axis, length in enumerate(spec.shape):
            if isinstance(length, int) and shape[axis].is_dynamic:
                shape[axis] = length
                shapes[index] = shape
    if shapes:
        model.reshape(shapes)


def positions(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> list[int | None]:
    """Return the index in `ports` of each spec, by name. A tensor that is two outputs stands for both, each at an index
    of its own.
    """
    free = dict(enumerate(ports))
    found: list[int | None] = []
    for spec in specs:
        index = next((index for index, port in free.items() if spec.name in _names(port)), None)
        if index is not None:
            del free[index]
        found.append(index)
    return found


def _names(port: Any) -> set[str]:
    """Return the names of a port's tensor, and that of its operation for an input."""
    node, names = port.get_node(), set(port.get_names())
    return names | {node.get_friendly_name()} if node.get_type_name() == "Parameter" else names


def problems(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """Return the differences between a model and its specs, in words."""
    return interface_problems(_named(model.inputs, inputs), _named(model.outputs, outputs), (inputs, outputs))


def _named(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> Iterator[Port]:
    """Yield the model's ports by the names that `specs` use for them, and the others."""
    places = positions(ports, specs)
    names = {place: spec.name for spec, place in zip(specs, places, strict=True) if place is not None}
    for index, port in enumerate(ports):
        element, shape = port.get_element_type().get_type_name(), port.get_partial_shape()
        lengths = None if shape.rank.is_dynamic else tuple(None if a.is_dynamic else a.get_length() for a in shape)
        name = names.get(index) or ", ".join(sorted(port.get_names())) or str(port)
        yield name, _DTYPES.get(element, element), lengths
