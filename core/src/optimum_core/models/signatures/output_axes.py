"""Names of the outputs' axes: those of the inputs' axes that they follow in every trial, else names of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import ask
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.axes import ShapesAt
from optimum_core.models.signatures.eager_trials import Shapes
from optimum_core.models.signatures.fewer_kept import FewerKept
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_core.types.tensors import is_batch

log = logging.getLogger(__name__)
#: Values for whole inputs, at which what an output keeps of them (`x[x != 0]`) is other than at drawn ones.
_CONSTANTS = (0, 1)


def output_specs(
    module: Any,
    layout: Layout,
    arrays: Mapping[str, Any],
    traced: Mapping[str, Any],
    shapes_at: ShapesAt,
    together: Sequence[tuple[Mapping[str, int], Any]],
) -> tuple[TensorSpec, ...]:
    """Return the specs of a model's outputs.

    Args:
        traced: the outputs at the traced lengths.
        shapes_at: the outputs' shapes at other lengths, by axis and length.
        together: lengths of all axes at once, with the model's output there.
    """
    lengths = {axis: layout.lengths[axis] for axis in layout.axes}
    usual = {name: tuple(tensor.shape) for name, tensor in traced.items()}
    by_value = {
        (name, index)
        for shapes in (_at_other_values(module, layout, arrays) if lengths else ())
        for name, shape in shapes.items()
        for index, (here, other) in enumerate(zip(usual.get(name, ()), shape, strict=False))
        if here != other
    }
    elsewhere = [
        (here, {name: tuple(tensor.shape) for name, tensor in flatten(output).items()}) for here, output in together
    ]
    places = [(name, index) for name, tensor in traced.items() for index in range(tensor.dim())]
    likely = {place: _output_axis(*place, traced[place[0]], lengths, shapes_at) for place in places}
    elsewhere += _at_odd_lengths(module, layout, arrays, dict.fromkeys(likely.values()))

    def named(name: str, index: int) -> int | str:
        if (name, index) in by_value:
            return f"{name}.axis{index}"
        axis = likely[name, index]
        follows = not isinstance(axis, str) or axis not in lengths or _follows(axis, name, index, elsewhere)
        return axis if follows else f"{name}.axis{index}"

    return tuple(
        TensorSpec(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(named(name, index) for index in range(tensor.dim())),
        )
        for name, tensor in traced.items()
    )


def _follows(axis: str, name: str, index: int, elsewhere: Sequence[tuple[Mapping[str, int], Shapes]]) -> bool:
    """Whether an output's axis has an input axis's length where all axes have others."""
    return all(
        axis not in lengths or name not in shapes or shapes[name][index : index + 1] in ((), (lengths[axis],))
        for lengths, shapes in elsewhere
    )


def _at_odd_lengths(
    module: Any, layout: Layout, arrays: Mapping[str, Any], axes: Iterable[int | str]
) -> Iterator[tuple[Mapping[str, int], Shapes]]:
    """Yield lengths one less than the traced one, with the outputs' shapes there: a codec gives whole steps of a sound,
    so that its answers are as long as the input where the steps divide that, and shorter elsewhere."""
    for axis in axes:
        if not isinstance(axis, str) or axis not in layout.axes or is_batch(axis) or layout.lengths[axis] < 2:
            continue
        lengths = {axis: layout.lengths[axis] - 1}
        inputs = draw(layout, Case(name="odd length", lengths=lengths), arrays)
        if (shapes := _shapes(module, inputs, nullcontext())) is not None:
            yield lengths, shapes


def _at_other_values(module: Any, layout: Layout, arrays: Mapping[str, Any]) -> Iterator[Shapes]:
    """Yield the outputs' shapes for other values, where the eager model takes them: where all numbers of the inputs are
    one, and where one fewer is kept of what is kept by its value."""
    drawn = draw(layout, Case(name="constant"), arrays)
    watch = FewerKept()
    kept = _shapes(module, drawn, watch)
    if watch.happened and kept is not None:
        yield kept
    for value in _CONSTANTS:
        inputs: Arrays = {
            item.name: drawn[item.name] if item.kind == "mask" else np.full_like(drawn[item.name], value)
            for item in layout.inputs
        }
        if (shapes := _shapes(module, inputs, nullcontext())) is not None:
            yield shapes


def _shapes(module: Any, inputs: Arrays, mode: AbstractContextManager[Any]) -> Shapes | None:
    """Return the outputs' shapes; None if the eager model refuses these inputs in this mode."""
    try:
        with mode:
            return {name: tuple(tensor.shape) for name, tensor in flatten(ask(module, inputs)).items()}
    except Exception as error:  # noqa: BLE001 - the eager model refuses these values, by an error of any type
        log.debug("outputs at other values: %r", error)
        return None


def _output_axis(name: str, index: int, tensor: Any, lengths: Mapping[str, int], shapes_at: ShapesAt) -> int | str:
    """Return an output axis's fixed length, the name of the input axis that it equals, or a new name for a mixture, as
    of what several axes move."""
    here = int(tensor.shape[index])
    moved: dict[str, list[tuple[int, int]]] = {}
    for (axis, length), shapes in shapes_at.items():
        if shapes is None or axis not in lengths or name not in shapes or len(shapes[name]) <= index:
            continue
        moved.setdefault(axis, []).append((length, shapes[name][index]))
    moving = [axis for axis, pairs in moved.items() if any(result != here for _, result in pairs)]
    followed = [axis for axis, pairs in moved.items() if lengths[axis] == here and all(a == b for a, b in pairs)]
    if followed and moving in ([], followed[:1]):
        return followed[0]
    return f"{name}.axis{index}" if moving else here
