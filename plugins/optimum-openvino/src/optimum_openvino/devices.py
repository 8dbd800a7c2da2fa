"""Detection of the installed OpenVINO and the devices that it may use here.

It reads package metadata and the names of shared libraries: nothing here imports openvino, so that a probe stays
light. Only the runtime knows whether a driver is installed: a session asks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optimum_core.backend import limits, package_folder, present, read_options, sums_widely, versions
from optimum_core.errors import OptionError
from optimum_core.types import Cpu, Hardware, Limitation, Offer, Support, Transform
from optimum_core.types.quantization import Scheme
from optimum_openvino.foreign_ir import FOREIGN_IR

BACKEND = "openvino"
FORMAT = "openvino-ir"
QUANTIZER = "nncf"
#: Manifest key: the number of activations that share a scale where a session rounds them in every call.
DYNAMIC_GROUP = "dynamic_group_size"
#: OpenVINO's names of the number formats of `StateSpec.cache`.
CACHES = {"int8": "u8"}

#: Export routes, the cheapest first; their graphs run equally fast. The first keeps one side of a branch on values and
#: names the place, so that another is tried; the others refuse it.
ROUTES = ("module", "transformers", "exported")
#: Routes of decoders: the others decompose attention, so that no cache is fused with it: 1.4 times slower at 128 tokens
#: of context and 3.7 times at 2,000.
DECODER_ROUTES = ("module",)
_EXPORTERS = ("torch", "transformers")

# The frontend opens files of any opset and reads unknown operators in the newest form that it supports.
# In 2026.4, the operators new in opset 23 were all read (Attention, RMSNormalization); of 24, TensorScatter is not.
_OPSET = 23


# Likeliest winners first. OpenVINO rounds activations in a call only where the processor adds up 8-bit
# products in one instruction; elsewhere it computes in float without a warning.
_SCHEMES = ("static-int8", "weight-only-int8", "weight-only-int4", "weight-only-nf4", "weight-only-fp16")
_DYNAMIC_SCHEMES = ("dynamic-int8", "dynamic-int4")

#: Where AMX computes, OpenVINO 2026 ends the process for some models: in bf16 by SIGFPE (`optimum_openvino.crashes`),
#: and in 8 bits by SIGSEGV where a picture's size varies, as openvinotoolkit/openvino#37577 reports; that was not seen.
_AMX = frozenset({"amx_bf16", "amx_int8"})
_CRASH_PRONE = ("bf16", "static-int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One kind of device.

    Attributes:
        name: the name in offers and requests.
        runtime_name: OpenVINO's own spelling.
        plugin: part of the name of its shared library.
        precisions: the arithmetic that it supports; for the CPU, see `cpu_precisions`.
        driver: what to install when OpenVINO does not see the device.
    """

    name: str
    runtime_name: str
    plugin: str
    precisions: tuple[str, ...]
    driver: str


CPU = Device(name="cpu", runtime_name="CPU", plugin="cpu_plugin", precisions=("fp32",), driver="pip install openvino")
_ACCELERATED = (
    Device(
        name="gpu",
        runtime_name="GPU",
        plugin="intel_gpu_plugin",
        precisions=("fp32", "fp16"),
        driver="install Intel's GPU driver with its OpenCL runtime",
    ),
    Device(
        name="npu",
        runtime_name="NPU",
        plugin="intel_npu_plugin",
        precisions=("fp16",),
        driver="install Intel's NPU driver",
    ),
)
DEVICES = {device.name: device for device in (CPU, *_ACCELERATED)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A device and its index; None: the first, or the only one."""

    device: Device
    index: int | None

    @property
    def runtime_name(self) -> str:
        """OpenVINO's spelling: "CPU", "GPU", "GPU.1"."""
        name = self.device.runtime_name
        return name if self.index is None else f"{name}.{self.index}"


def parse_device(device: str) -> Place:
    """Parse "cpu", "gpu", "gpu:1", "npu"; OpenVINO's own "GPU.1" is accepted too.

    Raises:
        OptionError: the device is unknown, or the part after the colon is no index.
    """
    name, _, index = device.lower().replace(".", ":").partition(":")
    if name not in DEVICES or (index and not index.isdecimal()):
        known = ", ".join(DEVICES)
        raise OptionError(f"backend '{BACKEND}'", f"unknown device {device!r}", f"use one of: {known} (or 'gpu:1')")
    return Place(device=DEVICES[name], index=int(index) if index else None)


def spoken(runtime_name: str) -> str:
    """Return OpenVINO's "GPU.1" in our spelling, "gpu:1"."""
    return runtime_name.lower().replace(".", ":")


def cpu_precisions(cpu: Cpu) -> tuple[str, ...]:
    """Return the precisions that OpenVINO computes on this processor with native instructions, not emulated.

    Its OPTIMIZATION_CAPABILITIES on a Xeon with avx512_bf16, amx_bf16 and avx512_fp16, as seen with 2026.4: BF16, FP32,
    FP16, INT8. A session checks it again.
    """
    features = cpu.features
    if cpu.architecture == "aarch64":
        return ("fp32", *(("fp16",) if "fp16" in features else ()))
    bf16 = ("bf16",) if features & {"amx_bf16", "avx512_bf16"} else ()
    fp16 = ("fp16",) if features & {"amx_fp16", "avx512_fp16"} else ()
    return ("fp32", *bf16, *fp16)


def cpu_schemes(cpu: Cpu) -> tuple[str, ...]:
    """Return the quantization schemes that sessions run on this processor."""
    first, *rest = _SCHEMES
    return (first, *(_DYNAMIC_SCHEMES if sums_widely(cpu) else ()), *rest)


def support(hardware: Hardware) -> Support:
    """Return the probe's answer for this machine."""
    folder = package_folder("openvino")
    if folder is None:
        missing = Limitation(
            what="run OpenVINO IR and ONNX", reason="openvino is not installed", remedy="pip install openvino"
        )
        return Support(limitations=(missing,))
    limitations = limits(f"export to {FORMAT}", _EXPORTERS, "pip install 'optimum-core[export]'", hook="export")
    exports = not limitations
    remedy = "pip install 'optimum-openvino[quantize]'"
    limitations += limits(f"quantize {FORMAT}", [QUANTIZER], remedy, hook="quantize")
    offers = [_cpu_offer(hardware.cpu, exports=exports, quantizes=present(QUANTIZER))]
    for device in _ACCELERATED:
        problem = _problem(device, folder, hardware)
        if problem is None:
            offers.append(_offer(device, device.precisions, exports=False))
        else:
            limitations.append(problem)
    return Support(
        offers=tuple(offers),
        limitations=tuple(limitations),
        versions=versions(("openvino", QUANTIZER, *_EXPORTERS)),
        generating_extras=("genai",),
        check_options=check_options,
        foreign=(FOREIGN_IR,),
    )


def check_options(options: Mapping[str, Any]) -> None:
    """Reject options that no session takes; imported inside, because a probe must stay light."""
    from optimum_openvino.options import OpenVinoOptions

    if stated := read_options(BACKEND, OpenVinoOptions, options).properties:
        from optimum_openvino.properties import check_properties

        check_properties(stated)


def _offer(device: Device, precisions: tuple[str, ...], *, exports: bool) -> Offer:
    return Offer(
        device=device.name,
        exports=(FORMAT,) if exports else (),
        routes=ROUTES if exports else (),
        loads=(FORMAT, "onnx"),
        parallel=True,
        prepares=True,
        precisions=precisions,
        opset=_OPSET,
    )


def _cpu_offer(cpu: Cpu, *, exports: bool, quantizes: bool) -> Offer:
    schemes = cpu_schemes(cpu)
    return dataclasses.replace(
        _offer(CPU, cpu_precisions(cpu), exports=exports),
        stateful=(FORMAT,),
        stateful_routes=DECODER_ROUTES if exports else (),
        quantizes=(Transform(takes=FORMAT, gives=FORMAT),) if quantizes else (),
        schemes=schemes if quantizes else (),
        runs=schemes,
        stateful_schemes=tuple(scheme for scheme in schemes if Scheme.parse(scheme).method != "static"),
        stateful_caches=tuple(CACHES),
        crash_prone=_CRASH_PRONE if cpu.features & _AMX else (),
    )


def _problem(device: Device, folder: Path, hardware: Hardware) -> Limitation | None:
    kind = device.runtime_name
    limitation = partial(Limitation, what=f"run on {device.name!r}", hook="load_session", device=device.name)
    found = hardware.gpus if device.name == "gpu" else hardware.npus
    if not any(item.vendor.lower() == "intel" for item in found):
        remedy = f"use device 'cpu', or a machine with an Intel {kind} and its driver"
        return limitation(reason=f"no Intel {kind} found", remedy=remedy)
    if not any(device.plugin in entry.name for entry in _libraries(folder)):
        remedy = "pip install openvino on Linux or Windows on x86-64, or use device 'cpu'"
        reason = f"the installed openvino has no {kind} plugin"
        return limitation(reason=reason, remedy=remedy)
    return None


def _libraries(folder: Path) -> list[Path]:
    libraries = folder / "libs"
    return list(libraries.iterdir()) if libraries.is_dir() else []
