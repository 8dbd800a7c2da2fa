"""Core ML's devices, routes and precisions on this machine. Light, because the probe imports it.

Core ML runs on Apple's systems only. Elsewhere this backend makes artifacts for them, and an interpreter of the written
program (`optimum_coreml_interpreter`) checks these: `proof` is then "graph", never "device".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.backend import limits, missing, present, read_options, versions
from optimum_core.errors import OptionError
from optimum_core.types import Hardware, Limitation, Offer, Support, Transform
from optimum_core.types.support import device_type

BACKEND = "coreml"
FORMAT = "coreml"
MACOS = "macos"

#: Export routes. Neither converts every model; verification decides which result is right.
ROUTES = ("trace", "export")
PRECISIONS = ("fp32", "fp16")
#: Rewrites the program in the requested precision: a Core ML program stores the precision of its arithmetic.
LEVELS = ("program",)
#: The names of the options, stated here since their checks import more than a probe may.
OPTIONS = (
    "minimum_deployment_target", "upper_bounds", "enumerated_shapes", "stateful", "context_length", "author",
    "license", "short_description", "version", "input_descriptions", "output_descriptions", "class_labels",
    "palettize", "quantize_tables", "prune", "weight_threshold",
)  # fmt: skip

#: Compute units by device name, in Core ML's own spelling.
DEVICES = {"all": "ALL", "cpu_only": "CPU_ONLY", "cpu_and_gpu": "CPU_AND_GPU", "cpu_and_ne": "CPU_AND_NE"}

WEIGHT_SCHEMES = ("weight-only-int8", "weight-only-int4", "weight-only-nf4")
STATIC_SCHEME = "static-int8"

#: The statement that a report adds to every comparison made here without Core ML.
GRAPH_LEVEL = "graph semantics on this machine; Core ML's own arithmetic not run"

_EXPORTERS = ("torch", "transformers")
#: The first macOS that runs each minimum deployment target.
FIRST_MACOS = {"iOS15": 12, "iOS16": 13, "iOS17": 14, "iOS18": 15}


def units_of(device: str) -> str:
    """Return Core ML's name of the compute units that a device stands for.

    Raises:
        OptionError: there are none of that name.
    """
    found = DEVICES.get(device_type(device))
    if found is None:
        raise OptionError(f"backend '{BACKEND}'", f"unknown device {device!r}", f"use one of: {', '.join(DEVICES)}")
    return found


def newest_target(system: str, system_version: str) -> str | None:
    """Return the newest minimum target that this machine runs; None: its macOS is too old. Elsewhere, the newest of
    all.
    """
    if system != MACOS:
        return "iOS18"
    major = system_version.partition(".")[0]
    version = int(major) if major.isdecimal() else 0
    return max((name for name, first in FIRST_MACOS.items() if first <= version), default=None)


def support(hardware: Hardware) -> Support:
    """Return the probe's answer for this machine."""
    if not present("coremltools"):
        nothing = limits("make and run Core ML programs", ["coremltools"], "pip install coremltools")
        return Support(limitations=tuple(nothing))
    absent = missing(_EXPORTERS)
    limitations = limits(f"export to {FORMAT}", absent, "pip install 'optimum-core[export]'", hook="export")
    found = versions(["coremltools"])
    if hardware.system == MACOS:
        if newest_target(hardware.system, hardware.system_version) is None:
            return Support(limitations=(_too_old(hardware),), versions=found)
        offers = tuple(_on_a_mac(device, exports=not absent) for device in DEVICES)
        return _support(offers, limitations, found)
    limitations.append(_cannot_run(hardware.system))
    return _support((_elsewhere(absent),), limitations, found)


def _support(offers: tuple[Offer, ...], limitations: list[Limitation], found: Mapping[str, str]) -> Support:
    return Support(offers=offers, limitations=tuple(limitations), versions=found, check_options=check_options)


def check_options(options: Mapping[str, Any]) -> None:
    """Reject options that no session takes; imported inside, because a probe must stay light."""
    from optimum_coreml.options import CoreMlOptions

    read_options(BACKEND, CoreMlOptions, options)


def _on_a_mac(device: str, *, exports: bool) -> Offer:
    schemes = (*WEIGHT_SCHEMES, STATIC_SCHEME)
    return Offer(
        device=device,
        exports=(FORMAT,) if exports else (),
        routes=ROUTES if exports else (),
        optimizes=(Transform(takes=FORMAT, gives=FORMAT),),
        levels=LEVELS,
        quantizes=(Transform(takes=FORMAT, gives=FORMAT),),
        loads=(FORMAT,),
        precisions=PRECISIONS,
        build_options=OPTIONS,
        schemes=schemes,
        runs=schemes,
    )


def _elsewhere(absent: list[str]) -> Offer:
    """Return the offer for machines without Core ML, where sessions use the interpreter, which computes with torch."""
    loads = (FORMAT,) if "torch" not in absent else ()
    return Offer(
        device="all",
        exports=() if absent else (FORMAT,),
        routes=() if absent else ROUTES,
        optimizes=(Transform(takes=FORMAT, gives=FORMAT),),
        levels=LEVELS,
        quantizes=(Transform(takes=FORMAT, gives=FORMAT),),
        loads=loads,
        precisions=PRECISIONS,
        build_options=OPTIONS,
        schemes=WEIGHT_SCHEMES,
        runs=WEIGHT_SCHEMES if loads else (),
        proof="graph",
    )


def _cannot_run(system: str) -> Limitation:
    return Limitation(
        what="run",
        reason=f"Core ML runs on macOS only, and this is {system}: {GRAPH_LEVEL}",
        remedy="copy the saved directory to a Mac with macOS 12 or later (15 for the default target iOS18), "
        "pip install optimum-coreml there, and optimum_core.load it",
        hook="load_session",
    )


def _too_old(hardware: Hardware) -> Limitation:
    return Limitation(
        what="run",
        reason=f"ML programs need macOS 12, and this is {hardware.system_version or 'unknown'}",
        remedy="update macOS",
        hook="load_session",
    )
