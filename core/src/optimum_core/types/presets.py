"""Quantization configurations by instruction set: the products that each computes fast and without overflow.

| preset | products | why |
|---|---|---|
| `avx2`, `avx512` | uint8 by 7-bit int8 | without VNNI, 16 bits hold the sum of two products: 8 bits overflow |
| `avx512_vnni` | uint8 by int8 | VNNI adds four products in 32 bits |
| `arm64` | int8 by int8 | the dot product takes signed by signed |
| `ppc64le` | uint8 by int8 | the matrix unit takes signed by unsigned |
| `tensorrt` | int8 by int8, symmetric | it has no zero points, and reads QDQ pairs |

Sources: Intel's description of VNNI (vpdpbusd adds in 32 bits, vpmaddubsw in 16 with saturation), Arm's of SDOT, IBM's
of xvi8ger4 on POWER10, NVIDIA's TensorRT documentation on explicit quantization.
"""

from __future__ import annotations

from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types.quantization import QuantizeConfig

_X86_NARROW: dict[str, Any] = {"activations": "uint8", "per_channel": True, "reduce_range": True}
_PRESETS: dict[str, dict[str, Any]] = {
    "arm64": {"activations": "int8", "symmetric": True, "per_channel": True, "reduce_range": False},
    "avx2": _X86_NARROW,
    "avx512": _X86_NARROW,
    "avx512_vnni": {**_X86_NARROW, "reduce_range": False},
    "ppc64le": {"activations": "uint8", "per_channel": True, "reduce_range": False},
    "tensorrt": {"activations": "int8", "symmetric": True, "per_channel": True, "reduce_range": False, "form": "qdq"},
}
PRESETS = tuple(_PRESETS)
#: Fields for static quantization only: ranges of activations found in every call are unsigned in every runtime that
#: does so, and the form is the runtime's own.
_STATIC_ONLY = ("activations", "form")


def preset(name: str, *, static: bool = True) -> QuantizeConfig:
    """Return the int8 configuration for an instruction set.

    Args:
        static: ranges of activations from calibration; False: computed in every call.

    Raises:
        OptionError: there is no such preset, or it is for static quantization only.

    >>> preset("avx2").reduce_range, preset("avx512_vnni").reduce_range
    (True, False)
    """
    if name not in _PRESETS:
        raise OptionError("quantize", f"there is no preset {name!r}", f"use one of {', '.join(PRESETS)}")
    if not static and name == "tensorrt":
        raise OptionError("quantize", "TensorRT has no dynamic quantization", "pass calibration= for the preset")
    values = _PRESETS[name]
    if static:
        return QuantizeConfig(scheme="static", **values)
    return QuantizeConfig(scheme="dynamic", **{key: item for key, item in values.items() if key not in _STATIC_ONLY})
