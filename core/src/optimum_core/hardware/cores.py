"""The number of hardware threads that this process may keep busy."""

from __future__ import annotations

import math

from optimum_core.hardware.limits import cpu_limit
from optimum_core.hardware.machine import Machine


def usable_cores(machine: Machine) -> int:
    """Return the least of the machine's hardware threads, the affinity and the cgroup limit; at least 1.

    A limit with a fraction is rounded down. Threads of a runtime wait for each other by spinning: one thread more than
    the limit pays for makes the group overrun it, and then all of them stand still until the next period begins, up
    to 100 ms later by default. That costs a call more than the idle fraction of a core does.
    """
    cores = machine.logical_cores
    if machine.allowed_cores is not None:
        cores = min(cores, machine.allowed_cores)
    limit = cpu_limit(machine.root) if machine.system == "linux" else None
    if limit is not None and limit < cores:
        cores = math.floor(limit)
    return max(1, cores)
