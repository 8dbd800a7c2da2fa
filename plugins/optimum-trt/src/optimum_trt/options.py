"""Options of building an engine and of a session, checked before the runtime sees them. One set: core hands the same
options to both."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError
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
        known = [item.name for item in fields(cls)]
        for name in options:
            if name not in known:
                raise _unknown(name, known)
        return cls(**{name: _CHECKS.get(name, _flag)(name, value) for name, value in options.items()})


def _unknown(name: str, known: list[str]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(known)}"
    return OptionError(f"backend '{BACKEND}'", f"unknown option {name!r}", remedy)


def _wrong(name: str, value: object, allowed: str) -> OptionError:
    return OptionError(f"backend '{BACKEND}'", f"option {name!r} cannot be {value!r}", f"give {allowed}")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _number(least: int, most: int | None = None, *, optional: bool = True) -> Callable[[str, object], int | None]:
    def check(name: str, value: object) -> int | None:
        if value is None and optional:
            return None
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not fits or (most is not None and isinstance(value, int) and value > most):
            raise _wrong(name, value, f"a whole number from {least}" + (f" to {most}" if most is not None else ""))
        return value if isinstance(value, int) else None

    return check


def _module(name: str, value: object) -> str | None:
    allowed = [module.package for module in MODULES]
    if value is not None and value not in allowed:
        raise _wrong(name, value, f"one of: {', '.join(allowed)}")
    return value if isinstance(value, str) else None


def _file(name: str, value: object) -> Path | None:
    if value is not None and not isinstance(value, str | Path):
        raise _wrong(name, value, "the path of a file")
    return None if value is None else Path(value)


def _ranges(name: str, value: object) -> dict[str, Range]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping such as {'sequence': (1, 128, 512)}")
    return {str(axis): _range(name, axis, lengths) for axis, lengths in value.items()}


def _range(name: str, axis: object, value: object) -> Range:
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if len(numbers) != 3 or not whole or not 0 <= numbers[0] <= numbers[1] <= numbers[2] or not numbers[2]:
        raise _wrong(f"{name}.{axis}", value, "three lengths in rising order: the shortest, likeliest and longest")
    return numbers[0], numbers[1], numbers[2]


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "module": _module,
    "ranges": _ranges,
    "optimization_level": _number(0, 5),
    "workspace": _number(1),
    "timing_cache": _file,
    "contexts": _number(1),
    "most_shapes": _number(1, optional=False),
    "runtime_cache": _file,
    "weight_budget": _number(0),
    "refit_from": _file,
}
