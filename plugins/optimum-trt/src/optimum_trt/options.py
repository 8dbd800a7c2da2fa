"""Options of building an engine and of a session, checked before the runtime sees them. One set: core hands the same
options to both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_core.options import Check, flag, mapping_of, one_of, optional, path, read_options, whole
from optimum_trt.modules import BACKEND, MODULES

Range = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrtOptions:
    """How an engine is built, and how it runs.

    Attributes:
        module: "tensorrt" or "tensorrt_rtx"; None: the one that fits the device.
        ranges: (shortest, likeliest, longest) by axis name, for the profile that takes every shape.
        tf32: let products of fp32 round their inputs to 10 bits of mantissa.
        optimization_level: how long the builder searches, 0 to 5; None: the module's choice.
        workspace: bytes of GPU memory that a layer may use while it runs; None: all there is.
        timing_cache: a file that keeps times of kernels between builds; for tensorrt.
        weight_streaming: build so that weights may stay in host memory.
        refit: build so that the weights can be exchanged.
        contexts: calls that run side by side, further ones wait; None: from the request.
        cuda_graphs: record the kernels of a shape once, and replay them.
        most_shapes: shapes whose buffers and graphs a context keeps.
        runtime_cache: a file that keeps kernels compiled while running; for tensorrt_rtx.
        weight_budget: bytes of weights that may lie on the GPU at once; for an engine that streams them.
        refit_from: an ONNX model whose weights the engine takes when it is opened.
    """

    module: str | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    tf32: bool = False
    optimization_level: int | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    weight_streaming: bool = False
    refit: bool = False
    contexts: int | None = None
    cuda_graphs: bool = True
    most_shapes: int = 8
    runtime_cache: Path | None = None
    weight_budget: int | None = None
    refit_from: Path | None = None

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> TrtOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value has the wrong type or is
                not among those allowed.
        """
        return read_options(BACKEND, cls, _CHECKS, options)


def _is_range(value: Any) -> bool:
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(isinstance(item, int) and not isinstance(item, bool) for item in numbers):
        return False
    return bool(0 <= numbers[0] <= numbers[1] <= numbers[2] and numbers[2])


_LENGTHS = "axes to three lengths in rising order, such as {'sequence': (1, 128, 512)}"
_CHECKS: Mapping[str, Check] = {
    "module": optional(one_of(*(module.package for module in MODULES))),
    "ranges": mapping_of(Check(right=_is_range, allowed="three lengths", convert=tuple), what=_LENGTHS),
    "tf32": flag(),
    "optimization_level": optional(whole(0, 5)),
    "workspace": optional(whole(1, of="bytes")),
    "timing_cache": optional(path()),
    "weight_streaming": flag(),
    "refit": flag(),
    "contexts": optional(whole(1, of="calls")),
    "cuda_graphs": flag(),
    "most_shapes": whole(1, of="shapes"),
    "runtime_cache": optional(path()),
    "weight_budget": optional(whole(0, of="bytes")),
    "refit_from": optional(path()),
}
