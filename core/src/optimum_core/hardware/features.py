"""Common names of the instruction sets that matter for inference.

Linux, macOS and py-cpuinfo spell the same feature differently; everything else that they list (power management,
mitigations) is left out, so that a change of kernel does not look like a change of hardware.
"""

from __future__ import annotations

from collections.abc import Iterable

# The common name, and other spellings of it, in lower case.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "ssse3": (),
    "sse4_1": ("sse4.1",),
    "sse4_2": ("sse4.2",),
    "avx": ("avx1.0", "avx1_0"),
    "avx2": ("avx2_0",),
    "f16c": (),
    "fma": (),
    "avx_vnni": ("avxvnni",),
    "avx_vnni_int8": ("avxvnniint8",),
    "avx_vnni_int16": ("avxvnniint16",),
    "avx_ifma": ("avxifma",),
    "avx_ne_convert": ("avxneconvert",),
    "avx512f": (),
    "avx512bw": (),
    "avx512cd": (),
    "avx512dq": (),
    "avx512vl": (),
    "avx512ifma": ("avx512_ifma",),
    "avx512vbmi": ("avx512_vbmi",),
    "avx512_vbmi2": ("avx512vbmi2",),
    "avx512_vnni": ("avx512vnni",),
    "avx512_bf16": ("avx512bf16",),
    "avx512_fp16": ("avx512fp16",),
    "avx512_bitalg": ("avx512bitalg",),
    "avx512_vpopcntdq": ("avx512vpopcntdq",),
    "avx10": (),
    "amx_tile": ("amxtile",),
    "amx_int8": ("amxint8",),
    "amx_bf16": ("amxbf16",),
    "amx_fp16": ("amxfp16",),
    "amx_complex": ("amxcomplex",),
    "neon": ("asimd", "advsimd"),
    "fp16": ("asimdhp", "neon_fp16"),
    "dotprod": ("asimddp",),
    "i8mm": (),
    "bf16": (),
    "sve": (),
    "sve2": (),
    "sve_i8mm": ("svei8mm",),
    "sve_bf16": ("svebf16",),
    "sme": (),
    "sme2": (),
}
_NAMES = {spelling: name for name, others in _SPELLINGS.items() for spelling in (name, *others)}


def normalize(flags: Iterable[str]) -> frozenset[str]:
    """Return the common names of the flags that are instruction sets for inference; drop the rest.

    >>> sorted(normalize(["AVX512VNNI", "asimddp", "md_clear"]))
    ['avx512_vnni', 'dotprod']
    """
    return frozenset(_NAMES[flag.lower()] for flag in flags if flag.lower() in _NAMES)
