"""Options of this backend, checked before coremltools sees them.

They belong to the export. `accelerate` passes the same options to every hook, and each hook uses those that concern it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from optimum_core.backend import said, whole

#: macOS releases that run the same programs.
_MACOS: Mapping[str, str] = {"macOS12": "iOS15", "macOS13": "iOS16", "macOS14": "iOS17", "macOS15": "iOS18"}

Target = Literal["iOS15", "iOS16", "iOS17", "iOS18", "macOS12", "macOS13", "macOS14", "macOS15"]
Lengths = Annotated[Mapping[str, Annotated[int, whole(1)]], said("a mapping of axes to lengths, at least 1")]
Shape = Annotated[Mapping[str, Annotated[int, whole(1)]], said("a mapping of axes to lengths", min_length=1)]
Texts = Annotated[Mapping[str, str], said("a mapping of names to texts")]


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreMlOptions:
    """Options for writing a program, and its metadata.

    Attributes:
        minimum_deployment_target: the oldest system that has to run it: "iOS15" to "iOS18", or "macOS12" to "macOS15";
            None: iOS18 or, on an older Mac, the newest that it runs.
        upper_bounds: the longest that named axes may get; others get a bound from the model's configuration.
        enumerated_shapes: lengths of the named axes, one mapping for each shape: only these are taken, and Core ML
            prepares for each; empty: any length within the bounds.
        stateful: keep a decoder's key-value cache in the program as state (iOS18): see `optimum_coreml.stateful`.
        context_length: capacity of the state, in positions.
        author, license, short_description, version: metadata that Xcode shows.
        input_descriptions, output_descriptions: texts by name.
        class_labels: names of the classes, in order; None: the model's own `id2label`, where it is a classifier; an
            empty list: none are written.
        palettize: for `quantize`: weights as indices into tables of 2, 4, 8, 16, 64 or 256 numbers, so many bits each
            (1, 2, 3, 4, 6, 8), instead of linear steps; k-means finds the numbers.
        quantize_tables: for `quantize`, with `palettize`: the numbers in the tables themselves have 8 bits (iOS18).
        prune: for `quantize`: set this share of the weights, the smallest, to 0, which takes no space (iOS18).
        weight_threshold: for `quantize`: weights with at most this many elements stay as they are.
    """

    minimum_deployment_target: Target | None = None
    upper_bounds: Lengths = field(default_factory=dict)
    enumerated_shapes: Annotated[tuple[Shape, ...], said("a list of mappings of axes to lengths, at least 1")] = ()
    stateful: bool = False
    context_length: Annotated[int, whole(1, of="positions")] | None = None
    author: str | None = None
    license: str | None = None
    short_description: str | None = None
    version: str | None = None
    input_descriptions: Texts = field(default_factory=dict)
    output_descriptions: Texts = field(default_factory=dict)
    class_labels: Annotated[tuple[str, ...], said("a list of texts")] | None = None
    palettize: Literal[1, 2, 3, 4, 6, 8] | None = None
    quantize_tables: bool = False
    prune: Annotated[float, said("a share above 0, below 1", gt=0, lt=1)] | None = None
    weight_threshold: Annotated[int, whole(0, of="weights")] = 512

    def __post_init__(self) -> None:
        target = self.minimum_deployment_target
        object.__setattr__(self, "minimum_deployment_target", _MACOS.get(target or "", target))
