"""Energy of the processors, where the system counts it and lets it be read: Linux' powercap, by RAPL.

The counters are of the whole machine, whatever runs on it. Not yet proved on hardware: no machine of this project's has
such counters, so that tests read files of their form. Source: Documentation/power/powercap/powercap.rst of Linux.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
#: Names another directory of the counters, such as the host's in a container.
POWERCAP_ENV = "OPTIMUM_POWERCAP_DIR"
#: A package with its cores; "dram" is counted apart from it, the domains "core" and "uncore" are not.
_PACKAGES, _MEMORY = "intel-rapl:*", "dram"
_COUNTER = "energy_uj"


@dataclass(kw_only=True, slots=True)
class _Domain:
    """A counter of microjoules, which begins again at 0 after the greatest value."""

    file: Path
    greatest: int
    last: int

    def passed(self) -> int:
        """Return the microjoules since the last call."""
        now = int(self.file.read_text())
        passed = now - self.last if now >= self.last else now + self.greatest - self.last
        self.last = now
        return passed


class EnergyMeter:
    """Joules that the machine's processors and memory have taken since the start.

    Args:
        powercap: the directory of the counters; None: the system's.
    """

    def __init__(self, powercap: Path | None = None) -> None:
        self._powercap = powercap or Path(os.environ.get(POWERCAP_ENV) or POWERCAP)
        self._found = _places(self._powercap)
        self._domains: Sequence[_Domain] = [found for place in self._found if (found := _opened(place))]
        self._lock = threading.Lock()
        self._microjoules = 0

    @property
    def is_there(self) -> bool:
        """Whether there is a counter that can be read."""
        return bool(self._domains)

    @property
    def problem(self) -> str:
        """The reason why there is no counter; empty where there is one."""
        if self._domains:
            return ""
        if not self._found:
            return f"there is no counter of energy in {self._powercap}"
        return f"{self._found[0] / _COUNTER} may not be read: the system leaves that to root"

    def joules(self) -> float:
        """Return the joules; has to be called at least once an hour: a counter begins anew."""
        with self._lock, suppress(OSError, ValueError):
            for domain in self._domains:
                self._microjoules += domain.passed()
        return self._microjoules / 1e6


def _places(powercap: Path) -> list[Path]:
    """Return the directories of the packages, and of their memory."""
    packages = [place for place in sorted(powercap.glob(_PACKAGES)) if place.name.count(":") == 1]
    memories = [place for place in sorted(powercap.glob(_PACKAGES)) if place.name.count(":") == 2]
    return [
        place
        for place in (*packages, *memories)
        if _name(place).startswith("package" if place in packages else _MEMORY)
    ]


def _name(place: Path) -> str:
    try:
        return (place / "name").read_text().strip()
    except OSError:
        return ""


def _opened(place: Path) -> _Domain | None:
    file = place / _COUNTER
    try:  # kernels since 5.10 let root alone read it
        return _Domain(file=file, greatest=int((place / "max_energy_range_uj").read_text()), last=int(file.read_text()))
    except (OSError, ValueError):
        return None
