"""Text summary of the hardware."""

from __future__ import annotations

from optimum_core.types.hardware import Cpu, Gpu, Hardware

_GIB = 2**30


def describe(hardware: Hardware) -> list[tuple[str, str]]:
    """Return rows of label and text, for the doctor page and for reports; memory is in GiB.

    Labels, in order: "System", "CPU", "CPU features", "Memory", "GPUs", "NPUs".
    """
    cpu = hardware.cpu
    gpus = "; ".join(map(_gpu, hardware.gpus))
    npus = "; ".join(npu.name for npu in hardware.npus)
    return [
        ("System", f"{hardware.system} {hardware.system_version}, {cpu.architecture}"),
        ("CPU", f"{cpu.model}, {_cores(cpu)}"),
        ("CPU features", " ".join(sorted(cpu.features)) or "none known"),
        ("Memory", f"{hardware.memory / _GIB:.1f} GiB"),
        ("GPUs", gpus or "none found"),
        ("NPUs", npus or "none found"),
    ]


def _cores(cpu: Cpu) -> str:
    if cpu.usable_cores > cpu.physical_cores:
        return f"{cpu.physical_cores} cores, {cpu.usable_cores} hardware threads usable"
    return f"{cpu.usable_cores} of {cpu.physical_cores} cores usable"


def _gpu(gpu: Gpu) -> str:
    facts = [gpu.name]
    if gpu.memory is not None:
        facts.append(f"{gpu.memory / _GIB:.1f} GiB")
    if gpu.compute_capability is not None:
        facts.append("compute capability {}.{}".format(*gpu.compute_capability))
    if gpu.driver is not None:
        facts.append(f"driver {gpu.driver}")
    return ", ".join(facts)
