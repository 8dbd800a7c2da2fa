"""Options of building an engine and of a session, checked before the runtime sees them. It is one set, because core
passes the same options to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from optimum_core.backend import said, whole
from optimum_core.errors import OptionError
from optimum_trt.modules import BACKEND

Range = tuple[int, int, int]
_RANGES = "a mapping of axes to three lengths in rising order, such as {'sequence': (1, 128, 512)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrtOptions:
    """Options for building and running an engine.

    Attributes:
        module: "tensorrt" or "tensorrt_rtx"; None: the one that fits the device.
        ranges: (shortest, likeliest, longest) by axis name, for the profile that takes every shape.
        tf32: let products of fp32 round their inputs to 10 bits of mantissa.
        optimization_level: the builder's search effort, 0 to 5; None: the module's choice.
        workspace: bytes of GPU memory that a layer may use while it runs; None: all there is.
        timing_cache: a file that keeps times of kernels between builds; for tensorrt.
        weight_streaming: build so that weights may stay in host memory.
        refit: build so that the weights can be exchanged.
        contexts: calls that run side by side, while further ones wait; None: from the request.
        cuda_graphs: record the kernels of a shape once, and replay them.
        most_shapes: the number of shapes whose buffers and graphs a context keeps.
        runtime_cache: a file that keeps kernels compiled while running; for tensorrt_rtx.
        weight_budget: bytes of weights that may lie on the GPU at once; for an engine that streams them.
        refit_from: an ONNX model whose weights the engine takes when it is opened.
    """

    module: Literal["tensorrt", "tensorrt_rtx"] | None = None
    ranges: Annotated[Mapping[str, Range], said(_RANGES)] = field(default_factory=dict)
    tf32: bool = False
    optimization_level: Annotated[int, whole(0, 5)] | None = None
    workspace: Annotated[int, whole(1, of="bytes")] | None = None
    timing_cache: Path | None = None
    weight_streaming: bool = False
    refit: bool = False
    contexts: Annotated[int, whole(1, of="calls")] | None = None
    cuda_graphs: bool = True
    most_shapes: Annotated[int, whole(1, of="shapes")] = 8
    runtime_cache: Path | None = None
    weight_budget: Annotated[int, whole(0, of="bytes")] | None = None
    refit_from: Path | None = None

    def __post_init__(self) -> None:
        for shortest, likeliest, longest in self.ranges.values():
            if not (0 <= shortest <= likeliest <= longest and longest):
                raise OptionError(
                    f"backend '{BACKEND}'", f"option 'ranges' cannot be {self.ranges!r}", f"give {_RANGES}"
                )
