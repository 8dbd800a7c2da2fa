"""Neural processors. Those that this process cannot open are not listed."""

from __future__ import annotations

from optimum_core.hardware.files import numbered, read_text
from optimum_core.hardware.gpus import pci_name, pci_vendor
from optimum_core.hardware.machine import Machine
from optimum_core.types.hardware import Npu

_COMPUTE_ACCELERATOR_CLASS = "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"


def find_npus(machine: Machine) -> tuple[Npu, ...]:
    """Return all NPUs: Intel's and AMD's by their drivers, Apple's because every Apple chip has one."""
    if machine.system == "linux":
        return _linux_npus(machine)
    if machine.system == "macos":
        return (Npu(vendor="apple", name="Apple Neural Engine"),) if machine.architecture == "aarch64" else ()
    devices = machine.registry(_COMPUTE_ACCELERATOR_CLASS)
    found = ((pci_vendor(str(values.get("MatchingDeviceId", ""))), values.get("DriverDesc")) for values in devices)
    return tuple(Npu(vendor=vendor, name=str(name or pci_name(vendor, "NPU", ""))) for vendor, name in found if vendor)


def _linux_npus(machine: Machine) -> tuple[Npu, ...]:
    npus = []
    for entry in numbered(machine.root / "sys/class/accel", "accel"):
        vendor = pci_vendor(read_text(entry / "device/vendor"))
        # As with GPUs, a container sees the host's /sys; the device node exists only where it may use the NPU.
        if vendor is not None and (machine.root / "dev/accel" / entry.name).exists():
            device = read_text(entry / "device/device") or ""
            npus.append(Npu(vendor=vendor, name=pci_name(vendor, "NPU", device)))
    return tuple(npus)
