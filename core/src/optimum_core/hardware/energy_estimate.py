"""An estimate of a process's energy, for machines that count none: its processor time, at the watts of a busy thread.

The watts are those of codecarbon, which knows thousands of processors by name and takes 4 W a thread for the others. It
is asked only where it is installed: `pip install 'optimum-core[energy]'`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
import os

log = logging.getLogger(__name__)
_LIBRARY = "codecarbon"


class EnergyEstimate:
    """Joules that this process is estimated to have taken, with the processes that it has started and awaited.

    Args:
        watts: of one thread of the processor under full load.
        constants: where that figure comes from, for readers.
    """

    def __init__(self, watts: float, constants: str) -> None:
        self._watts = watts
        self._before = _processor_seconds()
        self.constants = constants

    def joules(self) -> float:
        """Return the joules since this was made."""
        return (_processor_seconds() - self._before) * self._watts


def energy_estimate() -> EnergyEstimate | None:
    """Return an estimate that begins now; None: codecarbon is not installed, or knows no watts."""
    found = _constants()
    return EnergyEstimate(*found) if found is not None else None


@functools.cache
def _constants() -> tuple[float, str] | None:
    """Return the watts of a thread, and their origin in words; reading the table takes two seconds."""
    if importlib.util.find_spec(_LIBRARY) is None:
        return None
    theirs = logging.getLogger(_LIBRARY)
    level = theirs.level
    try:
        from codecarbon.core.cpu import TDP
        from codecarbon.core.util import count_cpus

        theirs.setLevel(logging.ERROR)  # of an unknown processor it warns at length; the constants say what it takes
        processor, threads = TDP(), count_cpus()
    except Exception as error:  # noqa: BLE001 - an estimate is worth no failure
        log.debug("no energy is estimated: %s does not work: %r", _LIBRARY, error)
        return None
    finally:
        theirs.setLevel(level)
    if not processor.tdp or not threads:
        return None
    version = importlib.metadata.version(_LIBRARY)
    watts = float(processor.tdp)
    return watts / threads, f"codecarbon {version}: {watts:g} W for {threads} threads of {processor.model}"


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
