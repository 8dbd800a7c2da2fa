"""The result of a probe: what a backend can do on this machine, and what it cannot do and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optimum_core.types.requests import Artifact

#: Precisions of arithmetic that an offer may name. Core compares each in its own tolerance.
PRECISIONS = ("fp32", "bf16", "fp16")


def device_type(device: str) -> str:
    """Return a device without its index, as an `Offer` names it.

    >>> device_type("cuda:1")
    'cuda'
    """
    return device.lower().partition(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """A conversion from one format to another, or within a format ("onnx" optimized is still "onnx").

    Attributes:
        takes: the format that it reads.
        gives: the format that it writes.
        schemes: the quantization schemes that use this conversion; empty: all of the offer's.
        seconds: approximate duration for a model of ordinary size, where it is long: such ways run only if asked for.
    """

    takes: str
    gives: str
    schemes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The abilities of a backend for one device of this machine.

    Attributes:
        device: "cpu", "cuda", "gpu", "npu", or a target that this machine lacks ("sm_89"), mostly without a number.
        exports: formats to which it exports a model.
        routes: export methods, the most likely to be correct first; each is tried until one verifies.
        optimizes: input and output formats of its `optimize`.
        levels: optimization levels that compete when none is named; the most likely to win first.
        named_levels: further levels, used only when named.
        quantizes: input and output formats of its `quantize`.
        loads: formats that `load_session` runs on this device; of two that are as fast, the first is taken.
        stateful: those of its formats in which a decoder keeps its cache as state: where it exports one, it writes
            artifacts for `ExportRequest.state`; where it loads one, its sessions are a `StatefulSession`.
        stateful_routes: the export methods for decoders; empty: `routes`.
        stateful_levels: the optimization levels that compete for decoders; empty: `levels`.
        stateful_schemes: the quantization schemes for decoders: of `schemes`, those that its `quantize` has for
            artifacts with state; of `runs`, those that its sessions run with state.
        stateful_caches: number formats in which its sessions keep the cache of a decoder, besides that of the
            arithmetic, where `StateSpec.cache` asks for one ("int8").
        live: `load_session` also runs the eager model (`SessionRequest.source`), so that no export is needed.
        parallel: concurrent calls (`SessionRequest.streams`) raise its throughput.
        prepares: its sessions are faster when they know the shapes of most calls (`SessionRequest.shapes`).
        precisions: precisions of the arithmetic that it offers here, the exact one first; of "fp32", "bf16", "fp16".
        schemes: quantization schemes of its `quantize`, by `QuantizeConfig.name` ("static-int8").
        runs: schemes that its sessions run on this device, regardless of the backend that quantized.
        opset: the newest ONNX opset that it loads; None where it does not load ONNX.
        crash_prone: those of its precisions and of `runs` in which the runtime is known to end the process for some
            models: a search first opens and calls such a candidate in a child process, which takes a second or two.
        build_options: names of its options that apply to `export` and `quantize` as well as to sessions.
        proof: the level at which results can be checked on this machine: on the "device" itself, of the "graph" by
            other means, or not at all ("none").
    """

    device: str
    exports: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    optimizes: tuple[Transform, ...] = ()
    levels: tuple[str, ...] = ()
    named_levels: tuple[str, ...] = ()
    quantizes: tuple[Transform, ...] = ()
    loads: tuple[str, ...] = ()
    stateful: tuple[str, ...] = ()
    stateful_routes: tuple[str, ...] = ()
    stateful_levels: tuple[str, ...] = ()
    stateful_schemes: tuple[str, ...] = ()
    stateful_caches: tuple[str, ...] = ()
    live: bool = False
    parallel: bool = False
    prepares: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    schemes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    opset: int | None = None
    crash_prone: tuple[str, ...] = ()
    build_options: tuple[str, ...] = ()
    proof: Literal["device", "graph", "none"] = "device"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limitation:
    """Something that the backend cannot do here, with the reason and the remedy.

    Attributes:
        what: a verb and its object, for people ("quantize openvino-ir"); code reads the other fields.
        reason: the reason, and `remedy`, what the user can do about it.
        hook: the hook that it limits: "export", "optimize", "quantize" or "load_session"; None: all of them.
        device: the device that it concerns, as an `Offer` of it would be named; None: all of them.
        level: the optimization level that it concerns; None: all of them, or none.
    """

    what: str
    reason: str
    remedy: str
    hook: Literal["export", "optimize", "quantize", "load_session"] | None = None
    device: str | None = None
    level: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignFormat:
    """A form in which other packages write models for the backend's runtime: such a model is opened as it is.

    Attributes:
        name: the form in words, for messages ("OpenVINO IR").
        format: the format of the artifacts that it becomes, and that `release` takes.
        find: returns the files of such a model at a path, a file or a directory, the one to open first in front;
            empty: there is none. It looks at names alone, and imports no runtime.
        adopt: writes the model of these files into an empty directory and returns the artifact. Its `precision` is what
            the files hold: "fp32", "bf16" or "fp16" of the arithmetic, or a scheme ("weight-only-int8"). It raises
            `ArtifactError` for files that it cannot read, or of which it cannot tell the precision.
        layout: the name of the form for `save_pretrained(layout=…)`; empty: nothing is saved in it.
        release: writes an artifact into an empty directory as those packages read it; the reverse of `adopt`.
    """

    name: str
    format: str
    find: Callable[[Path], tuple[Path, ...]]
    adopt: Callable[[tuple[Path, ...], Path], Artifact]
    layout: str = ""
    release: Callable[[Artifact, Path], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """The whole result of a probe.

    Attributes:
        offers: one per device that works here; empty when none does.
        limitations: at least one whenever `offers` is empty.
        versions: versions of the distributions on which the backend's results depend ("onnxruntime": "1.31.1").
        check_options: raises `OptionError` for options that its hooks would reject, before any work is done; None: the
            hooks themselves raise it when called.
        foreign: the forms of other packages' models that it opens as they are.
        generating_extras: extras of its distribution with which it runs models that generate, where they are installed.
    """

    offers: tuple[Offer, ...] = ()
    limitations: tuple[Limitation, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    check_options: Callable[[Mapping[str, Any]], object] | None = None
    foreign: tuple[ForeignFormat, ...] = ()
    generating_extras: tuple[str, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether nothing is offered and no reason given, which breaks the contract."""
        return not (self.offers or self.limitations)
