"""Energy of timed calls: counted by the machine, or estimated where a library for that is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from optimum_core.hardware.energy import EnergyMeter
from optimum_core.hardware.energy_estimate import EnergyEstimate, energy_estimate


def energy_meter() -> EnergyMeter | EnergyEstimate | None:
    """Return a meter of this machine, else an estimate for this process; None: neither is to be had."""
    meter = EnergyMeter()
    return meter if meter.is_there else energy_estimate()


@dataclass(kw_only=True, slots=True)
class Energy:
    """Joules of the machine, or of this process by an estimate, while calls ran, and the seconds of that.

    A counter moves every millisecond or so: whole rounds are measured, and a call has its share of their time.
    """

    meter: EnergyMeter | EnergyEstimate | None
    joules: float = 0.0
    seconds: float = 0.0

    @property
    def estimate(self) -> str:
        """The constants that the joules are estimated by; empty: they were counted."""
        return self.meter.constants if isinstance(self.meter, EnergyEstimate) else ""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Add what the machine takes while the block runs."""
        if self.meter is None:
            yield
            return
        before, start = self.meter.joules(), time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.joules += self.meter.joules() - before

    def joules_in(self, seconds: float) -> float | None:
        """Return the joules of that many seconds; None: nothing was counted."""
        return self.joules / self.seconds * seconds if self.meter is not None and self.joules > 0 else None
