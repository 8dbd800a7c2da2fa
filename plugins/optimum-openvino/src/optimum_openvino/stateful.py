"""Conversion of a decoder whose keys and values are inputs and outputs into one that keeps them as variables.

OpenVINO fuses attention with its cache in place (`ScaledDotProductAttentionWithKVCache`) where the graph holds the
attention as one operation, the cache as a variable, and between the two a selection of rows by `beam_idx`, an input
that exists in the file only: sessions use it to exchange rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from optimum_core.types import StateSpec, TensorSpec
from optimum_core.types.state import EMBEDS

#: The input that selects the rows of the cache that a call goes on with; int32 [rows].
ROWS = "beam_idx"
ROWS_SPEC = TensorSpec(name=ROWS, dtype="int32", shape=("rows",))
_ATTENTION = "ScaledDotProductAttention"


def make_stateful(model: Any, state: StateSpec) -> None:
    """Change a model in place: what `state.past` and `state.present` name become variables, which begin empty.

    Args:
        model: an `openvino.Model` whose inputs and outputs have the names of the state.
    """
    from openvino._offline_transformations import apply_make_stateful_transformation

    _select_rows(model, state)
    names = {past.name: present.name for past, present in zip(state.past, state.present, strict=True)}
    apply_make_stateful_transformation(model, names)
    _begin_empty(model)
    bound_masks(model)
    model.validate_nodes_and_infer_types()


def _select_rows(model: Any, state: StateSpec) -> None:
    import openvino
    from openvino import opset13 as ops

    rows = ops.parameter(name=ROWS, dtype=openvino.Type.i32, shape=openvino.PartialShape([-1]))
    rows.output(0).get_tensor().add_names({ROWS})
    model.add_parameters([rows])
    past = {spec.name for spec in state.past}
    for port in model.inputs:
        if port.get_names() & past:
            readers = port.get_target_inputs()
            selected = ops.gather(port, rows, ops.constant(np.int64(0)))
            for reader in readers:
                reader.replace_source_output(selected.output(0))
    model.validate_nodes_and_infer_types()


def _begin_empty(model: Any) -> None:
    """Make every variable begin with no positions, and as many rows as the new tokens have.

    Where the CPU plugin (2026.4) fuses a cache with nothing, as that of multi-head latent attention with one head, it
    takes the zero for the length of the cache for good, and refuses the first call. With a zero that it cannot know in
    advance, answers were wrong after other requests had run.
    """
    from openvino import opset13 as ops

    new = next(port for port in model.inputs if port.get_names() & {"input_ids", EMBEDS})
    shape = ops.shape_of(new, output_type="i64")
    rows = ops.gather(shape, ops.constant(np.array([0], np.int64)), ops.constant(np.int64(0)))
    for operation in model.get_ops():
        if operation.get_type_name() != "ReadValue":
            continue
        shape = operation.get_output_partial_shape(0)
        sizes = [int(axis.get_length()) if axis.is_static else 0 for axis in shape]
        parts = [ops.constant(np.array([size], np.int64)) for size in sizes]
        nothing = ops.constant(0.0, dtype=operation.get_output_element_type(0))
        operation.set_arguments([ops.broadcast(nothing, ops.concat([rows, *parts[1:]], axis=0))])


def bound_masks(model: Any) -> None:
    """Give attention a mask of finite numbers for one of booleans: a row that may see nothing (padding on the left)
    else gives NaN, which reaches later layers through its keys and values."""
    from openvino import opset13 as ops

    made: dict[str, Any] = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != _ATTENTION or operation.get_input_size() < 4:
            continue
        source = operation.input_value(3)
        if source.get_element_type().get_type_name() != "boolean":
            continue
        key = f"{source.get_node().get_name()}:{source.get_index()}"
        if key not in made:
            seen, hidden = (ops.constant(np.float32(value)) for value in (0.0, np.finfo(np.float16).min))
            made[key] = ops.select(source, seen, hidden)
        operation.input(3).replace_source_output(made[key].output(0))
