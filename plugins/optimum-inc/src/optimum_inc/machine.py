"""What this backend can do on a machine, by package metadata and the search path: nothing here imports torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from optimum_core.options import read_options
from optimum_core.types import Cpu, Hardware, Limitation, Offer, Support, Transform

BACKEND = "inc"
#: What `export` writes and `quantize` takes: a file of `torch.export.save`.
PROGRAM = "torch-export"
#: What sessions run: a package of AOTInductor, which holds native code for one kind of processor.
PACKAGE = "torch-inductor"
#: What `quantize` gives for others: ONNX with QuantizeLinear and DequantizeLinear.
ONNX = "onnx"

_QUANTIZERS = ("neural_compressor", "torchao", "accelerate")
_ONNX_WRITERS = ("onnx", "onnx_ir", "onnxscript")
_EXPORTERS = ("torch", "transformers")
_DISTRIBUTIONS = ("torch", "neural-compressor-pt", "torchao", "transformers")

# The likeliest to be worth it first.
SCHEMES = ("static-int8", "dynamic-int8", "weight-only-int8", "weight-only-int4")

_X86 = ("x86_64", "amd64")
# Without one of these, x86 adds two products of 8 bits in 16, which overflow.
# A rough figure for a model of MiniLM's size on two cores: it decides only whether anybody waits for it unasked.
_COMPILING_SECONDS = 40.0
_WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def overflows(cpu: Cpu) -> bool:
    """Whether two products of 8 bits are added in 16, as x86 does without instructions made for it."""
    return cpu.architecture.lower() in _X86 and not cpu.features & _WIDE_SUMS


def compiler() -> str | None:
    """The C++ compiler that TorchInductor will call: `$CXX`, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def support(hardware: Hardware) -> Support:
    """The probe's answer for this machine."""
    if _missing(("torch",)):
        missing = Limitation(what=f"run {PACKAGE}", reason="torch is not installed", remedy="pip install torch")
        return Support(limitations=(missing,))
    limitations = [*_export_limits(), *_run_limits(hardware)]
    exports = not _missing(_EXPORTERS)
    runs = _is_proved(hardware)
    quantize_limits = _quantize_limits() if runs else []
    quantizes = runs and not quantize_limits
    limitations += quantize_limits
    if not exports and not runs:
        return Support(limitations=tuple(limitations), versions=_versions())
    offer = Offer(
        device="cpu",
        exports=(PROGRAM,) if exports else (),
        quantizes=_transforms() if quantizes else (),
        loads=(PACKAGE,) if runs else (),
        schemes=SCHEMES if quantizes else (),
        runs=SCHEMES if runs else (),
    )
    return Support(offers=(offer,), limitations=tuple(limitations), versions=_versions(), check_options=check_options)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse all: this backend takes none."""
    read_options(BACKEND, dict, {}, options)


def _transforms() -> tuple[Transform, ...]:
    package = Transform(takes=PROGRAM, gives=PACKAGE, seconds=_COMPILING_SECONDS)
    onnx = Transform(takes=PROGRAM, gives=ONNX, schemes=("static-int8",))
    return (package,) if _missing(_ONNX_WRITERS) else (package, onnx)


def _is_proved(hardware: Hardware) -> bool:
    return hardware.system == "linux" and hardware.cpu.architecture.lower() in _X86


def _export_limits() -> list[Limitation]:
    missing = _missing(_EXPORTERS)
    if not missing:
        return []
    reason = f"{', '.join(missing)} not installed"
    return [Limitation(what=f"export to {PROGRAM}", reason=reason, remedy="pip install 'optimum-core[export]'")]


def _run_limits(hardware: Hardware) -> list[Limitation]:
    if _is_proved(hardware):
        return []
    reason = f"it was not proved on {hardware.system}, {hardware.cpu.architecture}"
    remedy = "use Linux on x86-64, or another backend"
    return [Limitation(what=f"quantize, and run {PACKAGE}", reason=reason, remedy=remedy)]


def _quantize_limits() -> list[Limitation]:
    found = []
    missing = _missing(_QUANTIZERS)
    if missing:
        remedy = "pip install 'optimum-inc[quantize]'"
        reason = f"{', '.join(missing)} not installed"
        found.append(Limitation(what=f"quantize {PROGRAM}", reason=reason, remedy=remedy))
    if compiler() is None:
        reason = "TorchInductor needs a C++ compiler, and there is none"
        remedy = "install g++ (Debian: apt install g++), or name one in CXX"
        found.append(Limitation(what=f"compile {PACKAGE}", reason=reason, remedy=remedy))
    return found


def _missing(packages: Iterable[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _versions() -> Mapping[str, str]:
    return {name: version for name in _DISTRIBUTIONS if (version := _version(name)) is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
