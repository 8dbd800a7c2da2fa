"""The devices and formats of this backend, from package metadata and the search path: no import of torch."""

from __future__ import annotations

import os
import shutil
from functools import partial

from optimum_core.backend import limits, missing, no_options, present, versions
from optimum_core.types import Hardware, Limitation, Offer, Support, Transform

BACKEND = "inc"
_CHECK_OPTIONS = partial(no_options, f"backend {BACKEND!r}")
#: Format that `export` writes and `quantize` takes: a file of `torch.export.save`.
PROGRAM = "torch-export"
#: Format that sessions run: a package of AOTInductor, which holds native code for one kind of processor.
PACKAGE = "torch-inductor"
#: Format that `quantize` gives for other backends: ONNX with QuantizeLinear and DequantizeLinear.
ONNX = "onnx"

_QUANTIZERS = ("neural_compressor", "torchao", "accelerate")
_ONNX_WRITERS = ("onnx", "onnx_ir", "onnxscript")
_EXPORTERS = ("torch", "transformers")
_DISTRIBUTIONS = ("torch", "neural-compressor-pt", "torchao", "transformers")

# In order of expected benefit.
SCHEMES = ("static-int8", "dynamic-int8", "weight-only-int8", "weight-only-int4")

_X86 = ("x86_64", "amd64")
# A rough figure for a model of MiniLM's size on two cores: it only decides whether "auto" waits for the compilation.
_COMPILING_SECONDS = 40.0


def compiler() -> str | None:
    """Return the C++ compiler that TorchInductor will call: `$CXX`, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def support(hardware: Hardware) -> Support:
    """Return the probe's answer for this machine."""
    if not present("torch"):
        return Support(limitations=tuple(limits(f"run {PACKAGE}", ["torch"], "pip install torch")))
    limitations = limits(f"export to {PROGRAM}", _EXPORTERS, "pip install 'optimum-core[export]'", hook="export")
    exports = not limitations
    limitations += _run_limits(hardware)
    runs = _is_proved(hardware)
    quantize_limits = _quantize_limits() if runs else []
    quantizes = runs and not quantize_limits
    limitations += quantize_limits
    if not exports and not runs:
        return Support(limitations=tuple(limitations), versions=versions(_DISTRIBUTIONS))
    offer = Offer(
        device="cpu",
        exports=(PROGRAM,) if exports else (),
        quantizes=_transforms() if quantizes else (),
        loads=(PACKAGE,) if runs else (),
        schemes=SCHEMES if quantizes else (),
        runs=SCHEMES if runs else (),
    )
    found = versions(_DISTRIBUTIONS)
    return Support(
        offers=(offer,),
        limitations=tuple(limitations),
        versions=found,
        check_options=_CHECK_OPTIONS,
    )


def _transforms() -> tuple[Transform, ...]:
    package = Transform(takes=PROGRAM, gives=PACKAGE, seconds=_COMPILING_SECONDS)
    onnx = Transform(takes=PROGRAM, gives=ONNX, schemes=("static-int8",))
    return (package,) if missing(_ONNX_WRITERS) else (package, onnx)


def _is_proved(hardware: Hardware) -> bool:
    return hardware.system == "linux" and hardware.cpu.architecture.lower() in _X86


def _run_limits(hardware: Hardware) -> list[Limitation]:
    if _is_proved(hardware):
        return []
    reason = f"it was not proved on {hardware.system}, {hardware.cpu.architecture}"
    remedy = "use Linux on x86-64, or another backend"
    return [
        Limitation(what=f"quantize {PROGRAM}", reason=reason, remedy=remedy, hook="quantize"),
        Limitation(what=f"run {PACKAGE}", reason=reason, remedy=remedy, hook="load_session"),
    ]


def _quantize_limits() -> list[Limitation]:
    remedy = "pip install 'optimum-inc[quantize]'"
    found = limits(f"quantize {PROGRAM}", _QUANTIZERS, remedy, hook="quantize")
    if compiler() is None:
        reason = "TorchInductor needs a C++ compiler, and there is none"
        remedy = "install g++ (Debian: apt install g++), or name one in CXX"
        found.append(Limitation(what=f"compile {PACKAGE}", reason=reason, remedy=remedy, hook="quantize"))
    return found
