"""Options of this backend, checked before coremltools sees them.

They belong to the export, and `accelerate` hands the same ones to every hook: each takes what concerns it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from optimum_core.errors import OptionError

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
        known = [item.name for item in fields(cls)]
        for name in options:
            if name not in known:
                raise _unknown(name, known)
        return cls(**{name: _checked(name, value) for name, value in options.items()})


def _unknown(name: str, known: list[str]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(known)}"
    return OptionError("backend 'coreml'", f"unknown option {name!r}", remedy)


def _checked(name: str, value: Any) -> Any:
    right, allowed, convert = _CHECKS[name]
    if value is None and name in _OPTIONAL:
        return None
    if not right(value):
        raise OptionError("backend 'coreml'", f"option {name!r} cannot be {value!r}", f"give {allowed}")
    return convert(value)


def _is_target(value: object) -> bool:
    return value in TARGETS or value in _MACOS


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _are_lengths(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and _is_count(item) for key, item in value.items())


def _are_shapes(value: object) -> bool:
    return isinstance(value, list | tuple) and all(item and _are_lengths(item) for item in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_text(key) and _is_text(item) for key, item in value.items())


def _are_labels(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_is_text(item) for item in value)


_BITS = (1, 2, 3, 4, 6, 8)


def _are_bits(value: object) -> bool:
    return value in _BITS and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_OPTIONAL = frozenset(
    {
        "palettize",
        "prune",
        "minimum_deployment_target",
        "context_length",
        "author",
        "license",
        "short_description",
        "version",
        "class_labels",
    }
)
_TEXT = (_is_text, "a text, or None", str)
_TEXTS = (_are_texts, "a mapping of names to texts", dict)
_CHECKS: Mapping[str, tuple[Callable[[object], bool], str, Callable[[Any], Any]]] = {
    "minimum_deployment_target": (
        _is_target,
        f"one of: {', '.join((*TARGETS, *_MACOS))}, or None",
        lambda value: _MACOS.get(value, value),
    ),
    "upper_bounds": (_are_lengths, "a mapping of axes to lengths, at least 1", dict),
    "enumerated_shapes": (_are_shapes, "a list of mappings of axes to lengths, at least 1", tuple),
    "stateful": (_is_flag, "True or False", bool),
    "context_length": (_is_count, "a whole number of positions, at least 1, or None", int),
    "author": _TEXT,
    "license": _TEXT,
    "short_description": _TEXT,
    "version": _TEXT,
    "input_descriptions": _TEXTS,
    "output_descriptions": _TEXTS,
    "class_labels": (_are_labels, "a list of texts, or None", tuple),
    "palettize": (_are_bits, f"one of: {', '.join(map(str, _BITS))}, or None", int),
    "quantize_tables": (_is_flag, "True or False", bool),
    "prune": (_is_share, "a share above 0, below 1, or None", float),
    "weight_threshold": (_is_size, "a whole number of weights, at least 0", int),
}
