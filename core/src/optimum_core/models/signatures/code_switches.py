"""Lengths at which the code of a model decides otherwise: by comparisons of sizes, or the functions that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.signatures.axes import ShapesAt, lengths_beside
from optimum_core.models.signatures.joint_sizes import joint_switches
from optimum_core.models.signatures.longer_calls import longer_switches
from optimum_core.models.signatures.nested_branches import nested_switches
from optimum_core.models.signatures.size_branches import size_switches
from optimum_core.models.signatures.size_records import cached_comparisons
from optimum_core.types import AxisRange


class CodeSwitches(NamedTuple):
    """The lengths at which the model's code decides otherwise.

    Attributes:
        by_axis: lengths after which it does, other axes as traced.
        joint: lengths of several axes at which it does, and does not at each alone.
        shapes: those of the outputs beyond the longest calls that run through the same functions.
    """

    by_axis: dict[str, tuple[int, ...]]
    joint: tuple[Mapping[str, int], ...]
    shapes: ShapesAt


def code_switches(
    module: Any, layout: Layout, arrays: Mapping[str, Any], ranges: Mapping[str, AxisRange]
) -> CodeSwitches:
    """Return the lengths at which the code of a model decides otherwise, found in runs of it.

    Args:
        arrays: samples of the user.
        ranges: by axis, the lengths that the eager model takes.
    """
    comparisons_at = cached_comparisons(module, layout, arrays)
    turns = size_switches(comparisons_at, layout, lengths_beside)
    nested = nested_switches(comparisons_at, layout, lengths_beside, turns)
    joint = (*joint_switches(comparisons_at, layout, lengths_beside), *nested)
    longer, shapes = longer_switches(module, layout, arrays, ranges)
    found = {axis: {*turns.get(axis, ())} | ({longer[axis]} if axis in longer else set()) for axis in (*turns, *longer)}
    return CodeSwitches({axis: tuple(sorted(lengths)) for axis, lengths in found.items()}, joint, shapes)
