"""Counters of energy in files, as Linux has them."""

from __future__ import annotations

from pathlib import Path


def energy_counter(powercap: Path, place: str, name: str, energy: int, greatest: int = 1_000_000) -> Path:
    """Write a counter of microjoules below the folder `powercap`, and return the file that counts."""
    folder = powercap / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{greatest}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    return folder / "energy_uj"
