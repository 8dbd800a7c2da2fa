"""Detection of the machine's hardware: processor, memory, GPUs and NPUs, as far as this process may use them.

It reads files, the operating system's own commands and small libraries; no runtime is imported. Facts that cannot be
read are left out: a damaged file or a missing tool never makes detection fail. `energy_counters` reads joules, and
`energy_estimate` takes its place where the machine counts none. `cpu`, `features` and `cores` tell of the processor,
`limits` what a control group leaves of it, `gpus` (with `nvidia`) and `npus` of the others, by the sources in `machine`
and small `files`; `summary` is the text.
"""

from __future__ import annotations

import functools

from optimum_core.hardware.cores import usable_cores
from optimum_core.hardware.cpu import find_cpu
from optimum_core.hardware.gpus import find_gpus
from optimum_core.hardware.limits import memory_limit
from optimum_core.hardware.machine import Machine
from optimum_core.hardware.npus import find_npus
from optimum_core.hardware.summary import describe
from optimum_core.types.hardware import Cpu, Hardware

__all__ = ["Machine", "describe", "detect", "survey"]


@functools.cache
def detect() -> Hardware:
    """Return the hardware that this process runs on, detected once per process.

    Later changes of affinity or of a cgroup's limit are not seen, so that every decision of one process is based on the
    same facts.

    >>> detect() is detect()
    True
    """
    return survey(Machine.here())


def survey(machine: Machine) -> Hardware:
    """Return the hardware of a machine, uncached; for tests: other callers use `detect`."""
    identity = find_cpu(machine)
    cpu = Cpu(
        vendor=identity.vendor or "unknown",
        model=identity.model or "unknown",
        architecture=machine.architecture,
        features=identity.features,
        physical_cores=max(1, min(machine.physical_cores or machine.logical_cores, machine.logical_cores)),
        usable_cores=usable_cores(machine),
    )
    limit = memory_limit(machine.root) if machine.system == "linux" else None
    return Hardware(
        system=machine.system,
        system_version=machine.system_version,
        cpu=cpu,
        memory=machine.memory if limit is None else min(machine.memory, limit),
        gpus=find_gpus(machine, chip=identity.model or "Apple GPU"),
        npus=find_npus(machine),
    )
