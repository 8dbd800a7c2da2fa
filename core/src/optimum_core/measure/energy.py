"""Energy of timed calls, where the machine counts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from optimum_core.hardware.energy import EnergyMeter


def energy_meter() -> EnergyMeter | None:
    """Return a meter of this machine; None: its energy is not counted, or may not be read."""
    meter = EnergyMeter()
    return meter if meter.is_there else None


@dataclass(kw_only=True, slots=True)
class Energy:
    """Joules of the machine while calls ran, and the seconds of that.

    A counter moves every millisecond or so: whole rounds are measured, and a call has its share of their time.
    """

    meter: EnergyMeter | None
    joules: float = 0.0
    seconds: float = 0.0

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
