"""Devices that engines can be built for and run on from this machine, found without importing a runtime."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from optimum_core.backend import limits, present, read_options, versions
from optimum_core.errors import OptionError, UnavailableError
from optimum_core.types import Gpu, Hardware, Limitation, Offer, Support, Transform
from optimum_trt.modules import (
    BACKEND,
    RTX,
    TENSORRT,
    Capability,
    Found,
    Module,
    capability_of,
    elsewhere,
    find,
    foreign,
    named,
    sm,
)

CUDA = "cuda"
ENGINE = "tensorrt-engine"
_BUILDS = (Transform(takes="onnx", gives=ENGINE),)
# The newest opset of core's exporters and of quantized models; the parser takes newer ones too.
_OPSET = 21
_SYSTEMS = ("linux", "windows")


def support(hardware: Hardware) -> Support:
    """Return the probe's answer: the GPU here, if there is one, and those that an engine can be built for from here."""
    found = find()
    if not found:
        return Support(limitations=(_missing(),))
    if hardware.system not in _SYSTEMS:
        reason, remedy = f"TensorRT does not exist for {hardware.system}", "use Linux or Windows"
        return Support(limitations=(Limitation(what="build and run engines", reason=reason, remedy=remedy),))
    if not present("onnx"):
        nothing = limits("build engines", ["onnx"], "pip install 'optimum-trt[rtx]'", hook="optimize")
        return Support(limitations=tuple(nothing), versions=_versions(found))
    offers = tuple(_offer(sm(item), item, "none") for item in _ahead(found))
    problem = running_problem(found, hardware)
    limitations = [] if problem is None else [problem]
    if problem is None:
        offers = (_offer(CUDA, _best(found, hardware)[1], "device"), *offers)
    if any(item.module is RTX for item in found):
        reason = f"{RTX.package} does not build for sm_90 ahead of time, nor for other GPUs of data centres after it"
        what, remedy = f"build for {sm((9, 0))}", elsewhere((9, 0))
        limitations.append(Limitation(what=what, reason=reason, remedy=remedy, hook="optimize", device=sm((9, 0))))
    return Support(
        offers=offers, limitations=tuple(limitations), versions=_versions(found), check_options=check_options
    )


def check_options(options: Mapping[str, Any]) -> None:
    """Reject options that no session takes; imported inside, because a probe must stay light."""
    from optimum_trt.options import TrtOptions

    read_options(BACKEND, TrtOptions, options)


def running_problem(found: tuple[Found, ...], hardware: Hardware) -> Limitation | None:
    """Return the limitation that prevents engines from running here; None where they run."""
    what, gpus = "run engines", [gpu for gpu in hardware.gpus if gpu.vendor == "nvidia"]
    if not gpus:
        remedy = (
            "take what was saved to a machine with such a GPU and its driver, and open it there with optimum_core.load"
        )
        reason = "no NVIDIA GPU with a driver was found here"
        return Limitation(what=what, reason=reason, remedy=remedy, hook="load_session")
    if not any(item.module.runs_on(capability) for item in found for capability in _capabilities(gpus)):
        names = ", ".join(f"{gpu.name} ({sm(gpu.compute_capability or (0, 0))})" for gpu in gpus)
        packages = " and ".join(item.module.package for item in found)
        reason = f"{packages} cannot run on {names}"
        return Limitation(what=what, reason=reason, remedy=_other(found), hook="load_session")
    if not present("cuda") or not present("cuda.bindings"):
        reason, remedy = "cuda-bindings is not installed", "pip install cuda-bindings"
        return Limitation(what=what, reason=reason, remedy=remedy, hook="load_session")
    return None


def choose_module(device: str, package: str | None, hardware: Hardware, who: str) -> tuple[Module, Capability | None]:
    """Return the module that builds for `device`, and the foreign compute capability; None: for the local GPU.

    Raises:
        OptionError: there is no such device.
        UnavailableError: nothing here builds for it.
    """
    found = tuple(item for item in find() if package in (None, item.module.package))
    if not found:
        missing = _missing() if package is None else _missing(named(package))
        raise UnavailableError(who, missing.reason, missing.remedy)
    index_of(device, who)
    capability = capability_of(device)
    if capability is None:
        if (problem := running_problem(found, hardware)) is not None:
            raise UnavailableError(who, f"device {device!r}: {problem.reason}", problem.remedy)
        return _best(found, hardware)[0], None
    local = _capabilities([gpu for gpu in hardware.gpus if gpu.vendor == "nvidia"])
    for item in found:
        if capability in item.module.ahead:
            return item.module, capability
        if capability in local and item.module.runs_on(capability):
            return item.module, None
    reason, remedy = foreign(found[-1].module, capability)
    raise UnavailableError(who, reason, remedy)


def index_of(device: str, who: str) -> int:
    """Return the index in "cuda:1"; 0 for "cuda" and for named capabilities.

    Raises:
        OptionError: it is neither.
    """
    name, _, index = device.partition(":")
    if (name == CUDA and (not index or index.isdecimal())) or capability_of(device) is not None:
        return int(index or 0)
    raise OptionError(
        who, f"unknown device {device!r}", "use 'cuda', 'cuda:1', or a compute capability such as 'sm_89'"
    )


def local_capability(device: str, hardware: Hardware) -> Capability:
    """Return the capability of the local GPU that `device` names by its index; (0, 0) where the driver does not report
    it.
    """
    gpus = [gpu for gpu in hardware.gpus if gpu.vendor == "nvidia"]
    index = index_of(device, f"backend '{BACKEND}'")
    return (gpus[index].compute_capability if index < len(gpus) else None) or (0, 0)


def platform_name() -> str:
    """Return operating system and processor, as an engine records them: "linux-x86_64"."""
    return f"{platform.system().lower()}-{platform.machine().lower()}"


def precisions(capability: Capability) -> tuple[str, ...]:
    """Return the precisions that such a GPU is built for, the exact one first."""
    # Turing has no matrix products in fp32 in tensorrt_rtx, and no bf16 at all.
    return ("fp16",) if capability < (8, 0) else ("fp32", "fp16", "bf16")


def schemes(capability: Capability) -> tuple[str, ...]:
    """Return the quantization schemes whose ONNX such a GPU is built for."""
    if capability < (8, 0):
        return ("static-int8",)
    return ("static-int8", *(("static-fp8",) if capability >= (8, 9) else ()), "weight-only-int4", "weight-only-int8")


def _offer(device: str, capability: Capability, proof: str) -> Offer:
    return Offer(
        device=device,
        optimizes=_BUILDS,
        loads=(ENGINE,),
        precisions=precisions(capability),
        runs=schemes(capability),
        opset=_OPSET,
        parallel=proof == "device",
        proof="device" if proof == "device" else "none",
    )


def _ahead(found: tuple[Found, ...]) -> tuple[Capability, ...]:
    return tuple(sorted({capability for item in found for capability in item.module.ahead}))


def _best(found: tuple[Found, ...], hardware: Hardware) -> tuple[Module, Capability]:
    """Return the module for the first GPU that any of them runs on."""
    gpus = _capabilities([gpu for gpu in hardware.gpus if gpu.vendor == "nvidia"])
    return next((item.module, gpu) for gpu in gpus for item in found if item.module.runs_on(gpu))


def _capabilities(gpus: list[Gpu]) -> list[Capability]:
    # Where the driver does not report it, a session checks when it opens; until then, assume the oldest that works.
    return [gpu.compute_capability or TENSORRT.least for gpu in gpus]


def _missing(module: Module | None = None) -> Limitation:
    names = " or ".join(item.distribution for item in ((TENSORRT, RTX) if module is None else (module,)))
    remedy = (
        "pip install 'optimum-trt[tensorrt]' for the GPU at hand, or 'optimum-trt[rtx]', which builds without a GPU"
    )
    return Limitation(what="build and run engines", reason=f"{names} is not installed", remedy=remedy)


def _other(found: tuple[Found, ...]) -> str:
    if any(item.module is TENSORRT for item in found):
        return "use a GPU of compute capability 7.5 or newer"
    return "pip install tensorrt, or use target 'ort:cuda' with onnxruntime-gpu, or the eager model on CUDA"


def _versions(found: tuple[Found, ...]) -> dict[str, str]:
    return {item.module.distribution: item.version for item in found} | versions(["onnx"])
