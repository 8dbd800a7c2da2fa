"""Vendor, model name and instruction sets of the processor."""

from __future__ import annotations

import re
from dataclasses import dataclass

from optimum_core.hardware.features import normalize
from optimum_core.hardware.files import read_text
from optimum_core.hardware.machine import Machine

_VENDORS = {"genuineintel": "intel", "authenticamd": "amd", "arm": "arm", "apple": "apple"}
# Arm processors identify themselves by numbers in the register MIDR_EL1: the implementer and the part.
_ARM_IMPLEMENTERS = {
    0x41: "arm",
    0x46: "fujitsu",
    0x48: "hisilicon",
    0x4E: "nvidia",
    0x50: "apm",
    0x51: "qualcomm",
    0x53: "samsung",
    0x56: "marvell",
    0x61: "apple",
    0x6D: "microsoft",
    0xC0: "ampere",
}
_ARM_PARTS = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
}
_LINE = re.compile(r"^([^:\n]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuIdentity:
    """The facts found about a processor; fields are empty where none was found."""

    vendor: str = ""
    model: str = ""
    features: frozenset[str] = frozenset()


def find_cpu(machine: Machine) -> CpuIdentity:
    """Identify the processor from the system's own source, and by py-cpuinfo where that is incomplete."""
    found = CpuIdentity()
    if machine.system == "linux":
        found = parse_proc_cpuinfo(read_text(machine.root / "proc/cpuinfo") or "")
    elif machine.system == "macos":
        found = parse_sysctl(machine.run(["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"]) or "")
    if not (found.model and found.features):
        other = _from_cpuinfo(machine)
        found = CpuIdentity(
            vendor=found.vendor or other.vendor,
            model=found.model or other.model,
            features=found.features or other.features,
        )
    if machine.architecture != "aarch64":
        return found
    # The calling convention of 64-bit Arm passes floats in NEON registers: every system on it has them.
    return CpuIdentity(vendor=found.vendor, model=found.model, features=found.features | {"neon"})


def parse_proc_cpuinfo(text: str) -> CpuIdentity:
    """Parse Linux's /proc/cpuinfo. Cores may differ: only features of every core count."""
    values: dict[str, dict[str, None]] = {}  # the distinct values of every key, in order
    for key, value in _LINE.findall(text):
        values.setdefault(key, {})[value] = None
    first = {key: next(iter(found)) for key, found in values.items()}
    flag_sets = [normalize(line.split()) for line in (*values.get("flags", ()), *values.get("Features", ()))]
    implementer = _number(first.get("CPU implementer"))
    vendor = _vendor(first.get("vendor_id", "")) or _ARM_IMPLEMENTERS.get(implementer, "")
    models = (first.get("model name", ""), _arm_model(vendor, list(values.get("CPU part", ()))), first.get("cpu", ""))
    return CpuIdentity(
        vendor=vendor,
        model=next(filter(None, models), ""),
        features=frozenset.intersection(*flag_sets) if flag_sets else frozenset(),
    )


def parse_sysctl(text: str) -> CpuIdentity:
    """Parse macOS's `sysctl machdep.cpu hw.optional`: lists of names on Intel, one switch per feature on Apple."""
    values = dict(_LINE.findall(text))
    flags = [
        flag
        for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features", "machdep.cpu.extfeatures")
        for flag in values.get(key, "").split()
    ]
    switched_on = (key for key, value in values.items() if key.startswith("hw.optional.") and value == "1")
    flags += [key.rpartition(".")[2].lower().removeprefix("feat_") for key in switched_on]
    model = values.get("machdep.cpu.brand_string", "")
    vendor = values.get("machdep.cpu.vendor", "") or model.partition(" ")[0]
    return CpuIdentity(vendor=_vendor(vendor), model=model, features=normalize(flags))


def _from_cpuinfo(machine: Machine) -> CpuIdentity:
    facts = machine.cpuinfo()
    flags = facts.get("flags")
    return CpuIdentity(
        vendor=_vendor(str(facts.get("vendor_id_raw") or "")),
        model=str(facts.get("brand_raw") or "").strip(),
        features=normalize(map(str, flags)) if isinstance(flags, (list, tuple)) else frozenset(),
    )


def _vendor(said: str) -> str:
    return _VENDORS.get(said.lower(), said)


def _arm_model(vendor: str, parts: list[str]) -> str:
    """Return the core designs of an Arm processor, "Cortex-A55 + Cortex-A76" where it has two kinds."""
    names = (_ARM_PARTS.get(_number(part), "") if vendor == "arm" else "" for part in parts)
    return " + ".join(name or f"{vendor} part {part}".strip() for name, part in zip(names, parts, strict=True))


def _number(text: str | None) -> int:
    try:
        return int(text or "", 0)
    except ValueError:
        return -1
