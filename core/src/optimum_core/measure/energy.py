"""Energy of timed calls: counted by the machine, or estimated where a library for that is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from optimum_core.hardware.energy_counters import EnergyMeter
from optimum_core.hardware.energy_estimate import EnergyEstimate, energy_estimate


def energy_meter() -> EnergyMeter | EnergyEstimate | None:
    """Return a meter of this machine, else an estimate for this process; None: neither is to be had."""
    meter = EnergyMeter()
    return meter if meter.is_there else energy_estimate()


@dataclass(kw_only=True, slots=True)
class Energy:
    """Watts of the machine, or of this process by an estimate, in each round of calls.

    A counter moves every millisecond or so: whole rounds are measured, and a call has its share of their time. The
    median of the rounds counts, so that one in which the calls were held up, or another program ran, does not decide.

    Attributes:
        clock: returns the seconds by which the calls are timed.
    """

    meter: EnergyMeter | EnergyEstimate | None
    clock: Callable[[], float] = time.perf_counter
    watts: list[float] = field(default_factory=list)

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
        before, start = self.meter.joules(), self.clock()
        yield
        seconds = self.clock() - start
        self.watts.append((self.meter.joules() - before) / seconds if seconds else 0.0)

    def joules_in(self, seconds: float) -> float | None:
        """Return the joules of that many seconds; None: nothing was counted."""
        watts = median(self.watts) if self.watts else 0.0
        return watts * seconds if watts > 0 else None
