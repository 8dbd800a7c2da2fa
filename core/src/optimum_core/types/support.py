"""A probe's answer: what a backend can do on this machine, and what it cannot and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """One way from a format to another, or to itself ("onnx" optimized is still "onnx").

    Attributes:
        schemes: of quantization, those that lead this way; empty: all of the offer's.
        seconds: what it takes, roughly, for a model of ordinary size, where that is long: it is not waited for unasked.
    """

    takes: str
    gives: str
    schemes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a backend can do for one device of this machine.

    Attributes:
        device: "cpu", "cuda", "gpu", "npu", or a named foreign target ("sm_89").
        exports: formats that it makes from a model.
        routes: ways of exporting, the likeliest to be right first; each is tried until one verifies.
        optimizes: formats that its `optimize` takes and gives.
        levels: optimization levels that compete when none is named; the likeliest to win first.
        named_levels: levels that it has besides, for those who name one.
        quantizes: formats that its `quantize` takes and gives.
        loads: formats that `load_session` runs on this device.
        live: `load_session` also takes the live model (`SessionRequest.source`), so that nothing need be exported.
        parallel: several calls side by side (`SessionRequest.streams`) finish more calls a second.
        prepares: its sessions gain from knowing the shapes of most calls (`SessionRequest.shapes`).
        precisions: arithmetic that it offers here, the exact one first.
        schemes: quantization schemes that its `quantize` makes, by `QuantizeConfig.name` ("static-int8").
        runs: schemes that its sessions run on this device, whichever backend quantized.
        opset: the newest ONNX opset that it loads; None where ONNX is not its business.
        build_options: names of its options that `export` and `quantize` take too, beside sessions.
        proof: how far results can be checked on this machine: on the "device" itself, of the "graph" by other
            means, or not at all ("none").
    """

    device: str
    exports: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    optimizes: tuple[Transform, ...] = ()
    levels: tuple[str, ...] = ()
    named_levels: tuple[str, ...] = ()
    quantizes: tuple[Transform, ...] = ()
    loads: tuple[str, ...] = ()
    live: bool = False
    parallel: bool = False
    prepares: bool = False
    precisions: tuple[str, ...] = ("fp32",)
    schemes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    opset: int | None = None
    build_options: tuple[str, ...] = ()
    proof: Literal["device", "graph", "none"] = "device"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limitation:
    """Something the backend cannot do here, why, and what would change that.

    Attributes:
        what: in words ("quantize openvino-ir").
        reason: why not, and `remedy` what to do about it.
        hook: the hook that it limits: "export", "optimize", "quantize" or "load_session"; None: all of them.
    """

    what: str
    reason: str
    remedy: str
    hook: Literal["export", "optimize", "quantize", "load_session"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """A probe's whole answer.

    Attributes:
        offers: one per device that works here; empty when none does.
        limitations: at least one whenever `offers` is empty.
        versions: distributions whose version changes what the backend produces ("onnxruntime": "1.31.1").
        check_options: raises `OptionError` for options that its hooks would refuse, so that this shows before any work
            is done; None: they show when the hooks are called.
    """

    offers: tuple[Offer, ...] = ()
    limitations: tuple[Limitation, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    check_options: Callable[[Mapping[str, Any]], object] | None = None
