"""Shapes that a program accepts: ranges, or enumerated shapes, of the named axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types import ExportRequest, TensorSpec
from optimum_coreml.devices import BACKEND
from optimum_coreml.options import CoreMlOptions

#: Core ML needs a bound for every length. Where neither the options nor the model's configuration bound an axis, the
#: end of its name selects one of these; an axis of another name may get `_FURTHER` times as long as traced.
_BOUNDS = {"batch": 64, "sequence": 2048, "height": 2048, "width": 2048, "samples": 480_000, "frames": 6000}
_FURTHER = 64
#: Configuration fields that state the longest sequence.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "max_target_positions")

_DTYPES = {"int64": "int32", "int32": "int32", "bool": "int32", "float32": "float32", "float16": "float32"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The least and the greatest length of a named axis, and its traced length."""

    least: int
    greatest: int
    traced: int


def bounds_of(request: ExportRequest, options: CoreMlOptions, config: Any) -> dict[str, Bounds]:
    """Return the bounds of every named axis of the inputs.

    Raises:
        OptionError: the options name an axis that the inputs do not have, or bound one below its traced length.
    """
    lengths = traced_lengths(request)
    who = f"backend '{BACKEND}', export of {request.source.name}"
    for name in options.upper_bounds:
        if name not in lengths:
            raise _no_axis(who, "upper_bounds", name, lengths)
    found = {}
    for axis, traced in lengths.items():
        greatest = options.upper_bounds.get(axis) or max(_bound(axis, traced, config), traced)
        if greatest < traced:
            why = f"option 'upper_bounds' cannot bound {axis!r} at {greatest}: it is traced at {traced}"
            raise OptionError(who, why, f"give at least {traced}")
        found[axis] = Bounds(least=1, greatest=greatest, traced=traced)
    return found


def traced_lengths(request: ExportRequest) -> dict[str, int]:
    """Return the length of each named axis in the samples."""
    return {
        name: int(request.samples[spec.name].shape[index])
        for spec in request.inputs
        for index, name in spec.dynamic_axes.items()
    }


def _bound(axis: str, traced: int, config: Any) -> int:
    kind = next((name for name in _BOUNDS if axis.endswith(name)), None)
    if kind == "sequence":
        return longest_sequence(config)
    return _BOUNDS[kind] if kind else traced * _FURTHER


def longest_sequence(config: Any) -> int:
    """Return the longest sequence that a model's configuration states; 2048 where it states none."""
    texts = [config, *(getattr(config, part, None) for part in ("text_config", "encoder", "decoder"))]
    stated = [getattr(part, name, None) for part in texts for name in _LENGTHS]
    found = [value for value in stated if isinstance(value, int) and value > 1]
    return min(found, default=_BOUNDS["sequence"])


def tensor_types(ct: Any, request: ExportRequest, options: CoreMlOptions, bounds: Mapping[str, Bounds]) -> list[Any]:
    """Return coremltools' description of each input, in order. Axes of one name share one dimension.

    Raises:
        OptionError: an enumerated shape names an unknown axis, leaves one out, or there are too many varying inputs.
    """
    if options.enumerated_shapes:
        return _enumerated(ct, request, options, bounds)
    dimensions = {
        name: ct.RangeDim(lower_bound=item.least, upper_bound=item.greatest, default=item.traced)
        for name, item in bounds.items()
    }
    return [
        _tensor(ct, spec, tuple(dimensions[axis] if isinstance(axis, str) else axis for axis in spec.shape))
        for spec in request.inputs
    ]


def _enumerated(ct: Any, request: ExportRequest, options: CoreMlOptions, bounds: Mapping[str, Bounds]) -> list[Any]:
    who = f"backend '{BACKEND}', export of {request.source.name}"
    traced = {name: item.traced for name, item in bounds.items()}
    for shape in options.enumerated_shapes:
        for name in shape:
            if name not in bounds:
                raise _no_axis(who, "enumerated_shapes", name, bounds)
        missing = [name for name in bounds if name not in shape]
        if missing:
            why = f"option 'enumerated_shapes' leaves axis {missing[0]!r} open in {dict(shape)}"
            raise OptionError(who, why, "give every named axis a length in every shape")
    # The traced shape is among them: it is the program's default.
    shapes = [traced, *(dict(shape) for shape in options.enumerated_shapes if dict(shape) != traced)]
    if len(shapes) < 2:
        raise OptionError(who, "option 'enumerated_shapes' has no shape but the traced one", "give another")
    varying = [spec.name for spec in request.inputs if spec.dynamic_axes]
    if len(varying) > 1 and options.minimum_deployment_target not in (None, "iOS18"):
        why = f"before iOS18, one input alone may have enumerated shapes; here {', '.join(varying)} vary"
        raise OptionError(who, why, "use minimum_deployment_target='iOS18', or leave 'enumerated_shapes' out")
    return [_tensor(ct, spec, _choices(ct, spec, shapes)) for spec in request.inputs]


def _choices(ct: Any, spec: TensorSpec, shapes: Sequence[Mapping[str, int]]) -> Any:
    if not spec.dynamic_axes:
        return spec.shape
    own = [tuple(shape[axis] if isinstance(axis, str) else axis for axis in spec.shape) for shape in shapes]
    # Core ML pairs the shapes of several inputs by index, so equal ones are not removed.
    return ct.EnumeratedShapes(shapes=own, default=own[0]) if len(set(own)) > 1 else own[0]


def _tensor(ct: Any, spec: TensorSpec, shape: Any) -> Any:
    import numpy as np

    return ct.TensorType(name=spec.name, shape=shape, dtype=np.dtype(core_ml_dtype(spec.dtype)).type)


def core_ml_dtype(dtype: str) -> str:
    """Return Core ML's element type for a spec's dtype: 32-bit integers for 64-bit ones and for booleans.

    Raises:
        KeyError: Core ML has nothing for it.
    """
    return _DTYPES[dtype]


def _no_axis(who: str, option: str, name: str, known: Mapping[str, Any]) -> OptionError:
    return OptionError(who, f"option '{option}' names axis {name!r}", f"the inputs have: {', '.join(known) or 'none'}")
