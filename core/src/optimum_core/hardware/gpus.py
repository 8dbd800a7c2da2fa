"""GPUs of all vendors. Those that this process cannot open are not listed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from optimum_core.hardware.files import numbered, read_int, read_text
from optimum_core.hardware.machine import Machine
from optimum_core.hardware.nvidia import nvidia_gpus
from optimum_core.types.hardware import Gpu

_PCI_VENDORS = {0x1002: "amd", 0x1022: "amd", 0x8086: "intel"}  # NVIDIA's are read from its driver, which reports more
_SPOKEN = {"amd": "AMD", "intel": "Intel"}
_DISPLAY_CLASS = "{4d36e968-e325-11ce-bfc1-08002be10318}"


def find_gpus(machine: Machine, chip: str) -> tuple[Gpu, ...]:
    """Return all GPUs: NVIDIA's, then those that the system lists. `chip` names an Apple GPU, which is part of it."""
    if machine.system == "linux":
        return nvidia_gpus(machine) + _linux_gpus(machine)
    if machine.system == "macos":
        return (Gpu(vendor="apple", name=chip),) if machine.architecture == "aarch64" else ()
    found = (parse_registry_gpu(values) for values in machine.registry(_DISPLAY_CLASS))
    return nvidia_gpus(machine) + tuple(gpu for gpu in found if gpu is not None)


def pci_vendor(text: str | None) -> str | None:
    """Return a known vendor of GPUs or NPUs from sysfs' "0x8086" or Windows' "PCI\\VEN_8086&DEV_56A0", or None."""
    match = re.search(r"(?:0x|ven_)([0-9a-f]{4})\b", (text or "").lower().replace("&", " "))
    return _PCI_VENDORS.get(int(match[1], 16)) if match else None


def pci_name(vendor: str, kind: str, device: str) -> str:
    """Return a name for a device that reports only its number: "Intel GPU 0x56a0"."""
    return f"{_SPOKEN.get(vendor, vendor)} {kind} {device}".strip()


def parse_registry_gpu(values: Mapping[str, object]) -> Gpu | None:
    """Return the AMD or Intel GPU in the registry values of a Windows driver; None for all others."""
    vendor = pci_vendor(str(values.get("MatchingDeviceId", "")))
    if vendor is None:
        return None
    memory, driver = values.get("HardwareInformation.qwMemorySize"), values.get("DriverVersion")
    return Gpu(
        vendor=vendor,
        name=str(values.get("DriverDesc") or pci_name(vendor, "GPU", "")),
        memory=memory if isinstance(memory, int) else None,
        driver=driver if isinstance(driver, str) else None,
    )


def _linux_gpus(machine: Machine) -> tuple[Gpu, ...]:
    # A container sees the host's /sys even when it was not given the GPU; then the device nodes are missing.
    if not (machine.root / "dev/dri").is_dir():
        return ()
    gpus = []
    for card in numbered(machine.root / "sys/class/drm", "card"):
        vendor = pci_vendor(read_text(card / "device/vendor"))
        if vendor is None:
            continue
        device = read_text(card / "device/device") or ""
        gpus.append(
            Gpu(
                vendor=vendor,
                name=read_text(card / "device/product_name") or pci_name(vendor, "GPU", device),
                memory=read_int(card / "device/mem_info_vram_total"),
                driver=_driver(read_text(card / "device/uevent") or ""),
            )
        )
    return tuple(gpus)


def _driver(uevent: str) -> str | None:
    match = re.search(r"^DRIVER=(\S+)", uevent, re.MULTILINE)
    return match[1] if match else None
