"""Joules in the figures of a server, from counters as Linux has them; where there are none, no figure is told."""

from __future__ import annotations

from pathlib import Path

from energy_counters import energy_counter
from optimum_core.backend import EnergyEstimate, EnergyMeter
from optimum_serve.metrics import Metrics


def test_without_counters_no_figure_is_told(tmp_path: Path) -> None:
    assert b"joules" not in Metrics(EnergyMeter(tmp_path), lambda: None).text()


def test_joules_for_a_thousand_requests(tmp_path: Path) -> None:
    counter = energy_counter(tmp_path, "intel-rapl:0", "package-0", 0)
    metrics = Metrics(EnergyMeter(tmp_path))
    for _ in range(4):
        metrics.observe("m", "/embed", 200, 0.1)
    metrics.observe("", "/health", 200, 0.1)
    counter.write_text("20000")
    text = metrics.text().decode()
    assert "optimum_energy_joules 0.02\n" in text and "optimum_joules_per_thousand_requests 5.0\n" in text


def test_an_estimate_has_a_name_of_its_own_and_states_its_constants(tmp_path: Path) -> None:
    metrics = Metrics(EnergyMeter(tmp_path), lambda: EnergyEstimate(10.0, "a table: 20 W for 2 threads"))
    metrics.observe("m", "/embed", 200, 0.1)
    text = metrics.text().decode()
    assert "optimum_estimated_energy_joules" in text and "optimum_estimated_joules_per_thousand_requests" in text
    assert "estimated from its processor time by a table: 20 W for 2 threads" in text
    assert "optimum_energy_joules" not in text
