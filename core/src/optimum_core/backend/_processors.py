"""The stamp of a processor for compiled code: code that was built for one may crash on another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.types import Hardware


def processor_stamp(hardware: Hardware, features: frozenset[str] | None = None) -> dict[str, Any]:
    """Return what compiled code needs of a processor, as plain values to keep with it, in its file or in a `Step`.

    Args:
        features: the instruction sets that the code uses; None: all that the processor has, as compilers for the host
            ("-march=native") take them.
    """
    used = hardware.cpu.features if features is None else features
    return {"architecture": hardware.cpu.architecture.lower(), "features": sorted(used)}


def processor_problem(stamp: Mapping[str, Any], hardware: Hardware) -> str | None:
    """Return why code with this stamp cannot run on a machine; None: it can.

    Call it before the code is loaded: what the processor lacks ends the process, and no exception is raised.

    >>> processor_problem({"architecture": "z80", "features": []}, detect())  # doctest: +SKIP
    'it was compiled for z80, and this processor is x86_64'
    """
    here = hardware.cpu.architecture.lower()
    made = str(stamp.get("architecture", here))
    if _common(made) != _common(here):
        return f"it was compiled for {made}, and this processor is {here}"
    lacking = sorted(set(stamp["features"]) - hardware.cpu.features)
    return f"it was compiled for a processor with {', '.join(lacking)}, which this one lacks" if lacking else None


def _common(architecture: str) -> str:
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(architecture, architecture)
