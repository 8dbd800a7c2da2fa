"""Lengths that an opened program accepts: of its inputs, and hence of the model's named axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimum_core.types import Lengths, TensorSpec
from optimum_coreml.interface import feature_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Accepted shapes of one input.

    Attributes:
        ranges: the least and the greatest length by axis, below 0 where there is no limit.
        shapes: the enumerated shapes, where the program lists them instead.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()


def taken_shapes(spec: Any, inputs: Sequence[TensorSpec]) -> dict[str, Taken]:
    """Return the shapes that a program accepts, by name of the model's input."""
    declared = {feature.name: _declared(feature.type.multiArrayType) for feature in spec.description.input}
    if not spec.description.state:
        return {item.name: declared[feature_name(item.name)] for item in inputs}
    longest = declared["causal_mask"].ranges[-1]
    # A stateful program takes texts one by one: any number of them.
    return {item.name: Taken(ranges=(_of_axis(item.shape[0]), longest)) for item in inputs}


def _of_axis(axis: int | str) -> tuple[int, int]:
    return (1, -1) if isinstance(axis, str) else (axis, axis)


def _declared(array: Any) -> Taken:
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        listed = array.enumeratedShapes.shapes
        return Taken(shapes=tuple(tuple(int(length) for length in item.shape) for item in listed))
    if flexible == "shapeRange":
        sizes = array.shapeRange.sizeRanges
        return Taken(ranges=tuple((int(item.lowerBound), int(item.upperBound)) for item in sizes))
    return Taken(shapes=(tuple(int(length) for length in array.shape),))


def shape_problem(taken: Taken, shape: tuple[int, ...]) -> str | None:
    """Return the reason why Core ML would refuse an input of this shape; None where it accepts it."""
    if not taken.ranges:
        said = " or ".join(map(str, taken.shapes))
        return None if shape in taken.shapes else f"it is {shape}, and the program takes {said}"
    fits = len(shape) == len(taken.ranges) and all(
        least <= length and (greatest < 0 or length <= greatest)
        for length, (least, greatest) in zip(shape, taken.ranges, strict=True)
    )
    said = " x ".join(_words(*pair) for pair in taken.ranges)
    return None if fits else f"it is {shape}, and the program takes {said}"


def _words(least: int, greatest: int) -> str:
    if greatest < 0:
        return f"{least} and more"
    return str(least) if least == greatest else f"{least} to {greatest}"


def lengths_of(taken: Mapping[str, Taken], inputs: Sequence[TensorSpec]) -> Lengths:
    """Return the lengths that named axes may have. Enumerated shapes of several inputs are paired by their index."""
    greatest: dict[str, int] = {}
    listed: dict[int, dict[str, int]] = {}
    for item in inputs:
        one = taken[item.name]
        for index, axis in item.dynamic_axes.items():
            if one.ranges and one.ranges[index][1] >= 0:
                greatest[axis] = min(one.ranges[index][1], greatest.get(axis, one.ranges[index][1]))
            for place, shape in enumerate(one.shapes if len(one.shapes) > 1 else ()):
                listed.setdefault(place, {})[axis] = shape[index]
    only = tuple(dict(pairs) for pairs in dict.fromkeys(tuple(shape.items()) for shape in listed.values()))
    return Lengths(greatest=greatest, only=only)
