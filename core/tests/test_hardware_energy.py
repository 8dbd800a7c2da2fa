"""Joules from counters as Linux has them, which begin anew, and by an estimate; else no figure is told."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from energy_counters import energy_counter
from optimum_core.hardware.energy_counters import POWERCAP_ENV, EnergyMeter
from optimum_core.hardware.energy_estimate import EnergyEstimate, energy_estimate
from optimum_core.measure.energy import Energy


def test_packages_and_memory_are_added_and_cores_are_in_them_already(tmp_path: Path) -> None:
    package = energy_counter(tmp_path, "intel-rapl:0", "package-0", 900_000)
    cores = energy_counter(tmp_path, "intel-rapl:0:0", "core", 5)
    memory = energy_counter(tmp_path, "intel-rapl:0:2", "dram", 7)
    energy_counter(tmp_path, "intel-rapl-mmio:0", "package-0", 3)  # the same package by another way
    meter = EnergyMeter(tmp_path)
    assert meter.is_there and meter.joules() == 0
    package.write_text("950000")
    memory.write_text("10007")
    cores.write_text("40000")
    assert meter.joules() == pytest.approx(0.06)
    package.write_text("20000")  # it has begun anew
    assert meter.joules() == pytest.approx(0.13)


def test_without_counters_that_can_be_read_there_is_no_figure(tmp_path: Path) -> None:
    (energy_counter(tmp_path, "intel-rapl:0", "package-0", 5)).unlink()
    assert not EnergyMeter(tmp_path).is_there and not EnergyMeter(tmp_path / "missing").is_there
    assert "may not be read" in EnergyMeter(tmp_path).problem
    assert "no counter" in EnergyMeter(tmp_path / "missing").problem


def test_the_counters_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy_counter(tmp_path, "intel-rapl:0", "package-0", 5)
    monkeypatch.setenv(POWERCAP_ENV, str(tmp_path))
    assert EnergyMeter().is_there and not EnergyMeter().problem


def test_a_round_that_was_held_up_does_not_decide(tmp_path: Path) -> None:
    file = energy_counter(tmp_path, "intel-rapl:0", "package-0", 0)
    seconds, spent = [0.0], 0
    energy = Energy(meter=EnergyMeter(tmp_path), clock=lambda: seconds[0])
    for pause in (0.0, 0.0, 9.0):
        with energy.measured():
            spent += 2_000_000
            file.write_text(str(spent))
            seconds[0] += 1.0 + pause
    assert energy.joules_in(0.5) == pytest.approx(1.0)


def test_an_estimate_goes_by_processor_time_and_says_so() -> None:
    energy = Energy(meter=EnergyEstimate(50.0, "a table: 100 W for 2 threads"), clock=time.process_time)
    with energy.measured():
        end = time.process_time() + 0.5  # the system counts processor time in hundredths of a second
        while time.process_time() < end:
            pass
    assert energy.joules_in(0.1) == pytest.approx(5.0, rel=0.1)
    assert energy.estimate == "a table: 100 W for 2 threads" and Energy(meter=None).estimate == ""


def test_without_codecarbon_nothing_is_estimated() -> None:
    if importlib.util.find_spec("codecarbon") is None:
        assert energy_estimate() is None
    else:
        found = energy_estimate()
        assert found is not None and found.joules() < 100
        assert found.constants.startswith("codecarbon") and " W for " in found.constants
