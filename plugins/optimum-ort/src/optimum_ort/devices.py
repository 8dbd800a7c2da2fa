"""The devices of the installed ONNX Runtime, by the execution providers that this machine can use.

It reads package metadata and the names of shared libraries: nothing here imports onnxruntime, so that a probe stays
light.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from optimum_core.backend import limits, missing, package_folder, present, read_options, versions
from optimum_core.errors import OptionError
from optimum_core.types import Hardware, Limitation, Offer, Support, Transform
from optimum_core.types.quantization import Scheme

BACKEND = "ort"

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-qnn",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-trt-rtx",
)

_LEVELS_NEED = ("onnx", "onnx-ir", "onnxscript", "transformers")

# (first version, newest ONNX opset it loads). The last row was found by loading models of each opset; releases
# between the rows have the lower figure, which every later release loads too.
_OPSETS: tuple[tuple[tuple[int, int], int], ...] = (((0, 0), 21), ((1, 23), 22), ((1, 31), 26))

#: Levels of `optimize` that are never the fastest.
_NAMED_LEVELS = ("basic", "extended")

_ONNX = (Transform(takes="onnx", gives="onnx"),)

# Likeliest winners first.
_SCHEMES = (
    "static-int8",
    "dynamic-int8",
    "weight-only-int8",
    "weight-only-int4",
    "dynamic-int4",
    "weight-only-nf4",
    "weight-only-fp16",
)
# Ranges of activations would have to be found over many calls of one state.
_STATEFUL_SCHEMES = tuple(scheme for scheme in _SCHEMES if Scheme.parse(scheme).method != "static")
# Made here and run elsewhere: no CPU multiplies 8-bit floats.
_SCHEMES_FOR_OTHERS = ("static-fp8",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider: its device and its requirements.

    Attributes:
        device: the name in offers and requests.
        name: ONNX Runtime's name of the provider.
        library: part of the name of its shared library; None where it is linked in or unknown.
        distribution: the package to install for it.
        system: the only operating system that has it, or None.
        vendor: the vendor of the GPU that it needs, in lower case; None: any GPU suffices, or none is needed.
        needs_gpu: False where the system itself brings the hardware.
        fallbacks: providers that take the nodes it does not support.
        binds: inputs and outputs can stay in device memory, reached through DLPack.
        fusion_target: its name in transformers' fusions, or None.
    """

    device: str
    name: str
    library: str | None
    distribution: str
    system: str | None = None
    vendor: str | None = None
    needs_gpu: bool = True
    fallbacks: tuple[str, ...] = ("CPUExecutionProvider",)
    binds: bool = False
    fusion_target: str | None = None


CPU = Provider(
    device="cpu",
    name="CPUExecutionProvider",
    library=None,
    distribution="onnxruntime",
    needs_gpu=False,
    fallbacks=(),
    fusion_target="cpu",
)

_ACCELERATED = (
    Provider(
        device="cuda",
        name="CUDAExecutionProvider",
        library="onnxruntime_providers_cuda",
        distribution="onnxruntime-gpu",
        vendor="nvidia",
        binds=True,
        fusion_target="cuda",
    ),
    Provider(
        device="tensorrt",
        name="TensorrtExecutionProvider",
        library="onnxruntime_providers_tensorrt",
        distribution="onnxruntime-gpu",
        vendor="nvidia",
        fallbacks=("CUDAExecutionProvider", "CPUExecutionProvider"),
        binds=True,
    ),
    Provider(
        device="dml",
        name="DmlExecutionProvider",
        library="DirectML",
        distribution="onnxruntime-directml",
        system="windows",
        fusion_target="dml",
    ),
    Provider(
        device="coreml",
        name="CoreMLExecutionProvider",
        library=None,
        distribution="onnxruntime",
        system="macos",
        needs_gpu=False,
    ),
    Provider(
        device="migraphx",
        name="MIGraphXExecutionProvider",
        library="onnxruntime_providers_migraphx",
        distribution="onnxruntime-migraphx",
        vendor="amd",
    ),
    Provider(
        device="rocm",
        name="ROCMExecutionProvider",
        library="onnxruntime_providers_rocm",
        distribution="onnxruntime-rocm",
        vendor="amd",
    ),
)

PROVIDERS = {provider.device: provider for provider in (CPU, *_ACCELERATED)}
_SYSTEMS = {"windows": "Windows", "macos": "macOS"}
_VENDORS = {"nvidia": "NVIDIA", "amd": "AMD"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """The installed onnxruntime.

    Attributes:
        folder: the folder of the package `onnxruntime`.
        distributions: installed distributions that own that package, with their versions.
    """

    folder: Path
    distributions: dict[str, str]

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return ", ".join(f"{name} {version}" for name, version in self.distributions.items()) or "unknown version"

    @property
    def opset(self) -> int:
        """The newest ONNX opset that it is known to load."""
        version = min((_major_minor(text) for text in self.distributions.values()), default=(0, 0))
        return max(opset for first, opset in _OPSETS if first <= version)

    def has(self, provider: Provider) -> bool:
        """Whether this build contains `provider`, as far as files show."""
        if provider.library is None:
            return True
        libraries = self.folder / "capi"
        return libraries.is_dir() and any(provider.library in entry.name for entry in libraries.iterdir())


def find_build() -> Build | None:
    """Return the installed onnxruntime, or None."""
    folder = package_folder("onnxruntime")
    return None if folder is None else Build(folder=folder, distributions=versions(_DISTRIBUTIONS))


def parse_device(device: str) -> tuple[Provider, int]:
    """Return the provider and the index of "cpu", "cuda", "cuda:1", ….

    Raises:
        OptionError: the device is unknown, or the part after the colon is no index.
    """
    name, _, index = device.partition(":")
    if name not in PROVIDERS or (index and not index.isdecimal()):
        known = ", ".join(PROVIDERS)
        raise OptionError(f"backend '{BACKEND}'", f"unknown device {device!r}", f"use one of: {known} (or 'cuda:1')")
    return PROVIDERS[name], int(index or 0)


def support(hardware: Hardware) -> Support:
    """Return the probe's answer for this machine."""
    build = find_build()
    if build is None:
        reason, remedy = "onnxruntime is not installed", "pip install onnxruntime"
        return Support(limitations=(Limitation(what="run ONNX models", reason=reason, remedy=remedy),))
    limitations = list(_clash(build))
    offers = [_offer(CPU, build)]
    for provider in _ACCELERATED:
        problem = _problem(provider, build, hardware)
        if problem is None:
            offers.append(_offer(provider, build))
        else:
            limitations.append(problem)
    limitations += _missing_levels(CPU)
    return Support(
        offers=tuple(offers),
        limitations=tuple(limitations),
        versions=build.distributions | versions(_LEVELS_NEED),
        check_options=_check_of(tuple(offer.device for offer in offers)),
    )


@cache
def _check_of(devices: tuple[str, ...]) -> Callable[[Mapping[str, Any]], None]:
    """Return the check of options for these devices, the same one each time: probes are compared."""
    return partial(check_options, devices=devices)


def check_options(options: Mapping[str, Any], *, devices: Sequence[str]) -> None:
    """Reject options that no session on these devices takes; imported inside, because a probe must stay light."""
    from optimum_ort.options import OrtOptions

    given = read_options(BACKEND, OrtOptions, options).provider_options
    for device in devices if len(devices) == 1 else ():
        check_provider_options(PROVIDERS[device], given)


def check_provider_options(provider: Provider, given: Mapping[str, Any]) -> None:
    """Reject options of the CPU's provider, which ignores them all without an error."""
    if given and provider is CPU:
        why = f"{provider.name} has no provider options, and would ignore {', '.join(map(repr, given))}"
        raise OptionError(f"backend '{BACKEND}'", why, f"leave provider_options out on device {provider.device!r}")


def _clash(build: Build) -> tuple[Limitation, ...]:
    if len(build.distributions) < 2:
        return ()
    names = list(build.distributions)
    return (
        Limitation(
            what="rely on the installed onnxruntime",
            reason=f"{' and '.join(names)} are both installed and overwrite each other's files",
            remedy=f"pip uninstall {' '.join(names)}, then install the one you want",
        ),
    )


def _problem(provider: Provider, build: Build, hardware: Hardware) -> Limitation | None:
    what = f"run on {provider.device!r} ({provider.name})"
    limitation = partial(Limitation, what=what, hook="load_session", device=provider.device)
    if provider.system is not None and hardware.system != provider.system:
        reason, remedy = f"it exists on {_SYSTEMS[provider.system]} only", "use another device, such as 'cpu'"
        return limitation(reason=reason, remedy=remedy)
    if provider.needs_gpu and not _has_gpu(provider, hardware):
        kind = f"{_VENDORS[provider.vendor]} GPU" if provider.vendor else "GPU"
        article = "an" if provider.vendor else "a"
        remedy = f"use another device, or a machine with {article} {kind} and its driver"
        return limitation(reason=f"no {kind} found", remedy=remedy)
    if not build.has(provider):
        reason = f"the installed build ({build.label}) does not contain it"
        remedy = f"pip uninstall {' '.join(build.distributions)}; pip install {provider.distribution}"
        return limitation(reason=reason, remedy=remedy)
    if provider.device == "tensorrt" and not _tensorrt_present():
        reason, remedy = "TensorRT's libraries were not found", "pip install tensorrt"
        return limitation(reason=reason, remedy=remedy)
    return None


def _has_gpu(provider: Provider, hardware: Hardware) -> bool:
    return any(provider.vendor in (None, gpu.vendor.lower()) for gpu in hardware.gpus)


def _tensorrt_present() -> bool:
    if len(missing(("tensorrt", "tensorrt_libs"))) < 2:
        return True
    folders = os.environ.get("PATH" if os.name == "nt" else "LD_LIBRARY_PATH", "").split(os.pathsep)
    return any(any(Path(folder).glob("*nvinfer*")) for folder in folders if folder and Path(folder).is_dir())


def _offer(provider: Provider, build: Build) -> Offer:
    quantizes = provider is CPU and present("onnx")
    half = provider.device in ("cuda", "tensorrt") and present("onnx")
    return Offer(
        device=provider.device,
        optimizes=_ONNX,
        levels=_levels(provider),
        named_levels=_NAMED_LEVELS,
        quantizes=_ONNX if quantizes else (),
        loads=("onnx",),
        stateful=("onnx",) if provider is CPU else (),
        stateful_levels=_decoder_levels(provider),
        precisions=("fp32", "fp16") if half else ("fp32",),
        schemes=(*_SCHEMES, *_SCHEMES_FOR_OTHERS) if quantizes else (),
        runs=_SCHEMES if provider is CPU else (),
        stateful_schemes=_STATEFUL_SCHEMES if provider is CPU else (),
        opset=build.opset,
    )


def _levels(provider: Provider) -> tuple[str, ...]:
    levels = ["all"]
    if provider.fusion_target is not None:
        levels += ["fusions"] * present("onnx") + ["ort_fusions"] * _has_ort_fusions()
    return tuple(levels)


def _decoder_levels(provider: Provider) -> tuple[str, ...]:
    return (*(("shared_cache",) if present("onnx") else ()), "all") if provider is CPU else ()


def _missing_levels(provider: Provider) -> list[Limitation]:
    remedy = "pip install 'optimum-ort[optimize]'"
    found = limits("optimize at level 'fusions'", ["onnx"], remedy, hook="optimize", level="fusions")
    if not _has_ort_fusions():
        reason = "it needs onnx-ir, onnxscript, and a transformers that ships ONNX Runtime fusions"
        remedy, what = "pip install 'optimum-core[export]'", "optimize at level 'ort_fusions'"
        found.append(Limitation(what=what, reason=reason, remedy=remedy, hook="optimize", level="ort_fusions"))
    return found


def _has_ort_fusions() -> bool:
    # find_spec on the submodule would import transformers, which takes seconds: look for its file.
    folder = package_folder("transformers")
    if folder is None or not (folder / "exporters" / "onnxruntime_fusions.py").is_file():
        return False
    return not missing(("onnx_ir", "onnxscript", "torch"))


def _major_minor(version: str) -> tuple[int, int]:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)
