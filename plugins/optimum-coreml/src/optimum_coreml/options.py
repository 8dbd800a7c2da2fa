"""Options of this backend, checked before coremltools sees them.

They belong to the export, and `accelerate` hands the same ones to every hook: each takes what concerns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optimum_core.options import Check, flag, mapping_of, one_of, optional, read_options, text, whole

TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
#: macOS releases that run the same programs.
_MACOS = {"macOS12": "iOS15", "macOS13": "iOS16", "macOS14": "iOS17", "macOS15": "iOS18"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreMlOptions:
    """How a program is written and what it says of itself.

    Attributes:
        minimum_deployment_target: the oldest system that is to run it: "iOS15" to "iOS18", or "macOS12" to "macOS15";
            None: iOS18 or, on an older Mac, the newest that it runs.
        upper_bounds: the longest that named axes may get; others get a bound from the model's configuration.
        enumerated_shapes: lengths of the named axes, one mapping for each shape: only these are taken, and Core ML
            prepares for each; empty: any length within the bounds.
        stateful: a decoder's key-value cache is kept in the program as state (iOS18): see `optimum_coreml.stateful`.
        context_length: positions that the state has room for.
        author, license, short_description, version: what Xcode shows of the model.
        input_descriptions, output_descriptions: texts by name.
        class_labels: names of the classes, in order; None: the model's own `id2label`, where it is a classifier; an
            empty list: none are written.
        palettize: for `quantize`: weights as places in tables of 2, 4, 8, 16, 64 or 256 numbers, so many bits each
            (1, 2, 3, 4, 6, 8), instead of linear steps; k-means finds the numbers.
        quantize_tables: for `quantize`, with `palettize`: the numbers in the tables themselves have 8 bits (iOS18).
        prune: for `quantize`: this share of the weights, the smallest, becomes 0 and takes no place (iOS18).
        weight_threshold: for `quantize`: weights of so many numbers or fewer stay as they are.
    """

    minimum_deployment_target: str | None = None
    upper_bounds: Mapping[str, int] = field(default_factory=dict)
    enumerated_shapes: tuple[Mapping[str, int], ...] = ()
    stateful: bool = False
    context_length: int | None = None
    author: str | None = None
    license: str | None = None
    short_description: str | None = None
    version: str | None = None
    input_descriptions: Mapping[str, str] = field(default_factory=dict)
    output_descriptions: Mapping[str, str] = field(default_factory=dict)
    class_labels: tuple[str, ...] | None = None
    palettize: int | None = None
    quantize_tables: bool = False
    prune: float | None = None
    weight_threshold: int = 512

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> CoreMlOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value has the wrong type or is
                not among those allowed.
        """
        return read_options("coreml", cls, _CHECKS, options)


_BITS = (1, 2, 3, 4, 6, 8)
_LENGTHS = mapping_of(whole(1), what="axes to lengths, at least 1")


def _are_shapes(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(item and _LENGTHS.right(item) for item in value)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


_SYSTEM = one_of(*TARGETS, *_MACOS)
_TEXTS = mapping_of(text(), what="names to texts")
_CHECKS: Mapping[str, Check] = {
    "minimum_deployment_target": optional(replace(_SYSTEM, convert=lambda value: _MACOS.get(value, value))),
    "upper_bounds": _LENGTHS,
    "enumerated_shapes": Check(
        right=_are_shapes, allowed="a list of mappings of axes to lengths, at least 1", convert=tuple
    ),
    "stateful": flag(),
    "context_length": optional(whole(1, of="positions")),
    "author": optional(text()),
    "license": optional(text()),
    "short_description": optional(text()),
    "version": optional(text()),
    "input_descriptions": _TEXTS,
    "output_descriptions": _TEXTS,
    "class_labels": optional(Check(right=_are_labels, allowed="a list of texts", convert=tuple)),
    "palettize": optional(one_of(*_BITS)),
    "quantize_tables": flag(),
    "prune": optional(Check(right=_is_share, allowed="a share above 0, below 1")),
    "weight_threshold": whole(0, of="weights"),
}
