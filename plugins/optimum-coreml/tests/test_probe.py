from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from optimum_core.errors import OptionError
from optimum_core.testing.machine import Machine, reasons
from optimum_core.types import Support
from optimum_coreml import devices, plugin


def on(hardware: Machine, system: str, version: str) -> Support:
    return plugin.probe(hardware(system=system, system_version=version))


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_elsewhere_it_makes_artifacts_and_says_why_it_cannot_run(system: str, hardware: Machine) -> None:
    support = on(hardware, system, "6")
    (offer,) = support.offers
    assert (offer.device, offer.proof, offer.exports, offer.loads) == ("all", "graph", ("coreml",), ("coreml",))
    assert offer.routes == devices.ROUTES
    assert offer.precisions == ("fp32", "fp16")
    assert "static-int8" not in offer.schemes
    reason, remedy = reasons(support)["run"]
    assert "runs on macOS only" in reason and devices.GRAPH_LEVEL in reason
    assert "copy the saved directory to a Mac" in remedy and "optimum_core.load" in remedy


def test_a_mac_offers_its_compute_units(hardware: Machine) -> None:
    support = on(hardware, "macos", "15.1")
    assert [offer.device for offer in support.offers] == list(devices.DEVICES)
    assert {offer.proof for offer in support.offers} == {"device"}
    assert all("static-int8" in offer.schemes for offer in support.offers)
    assert reasons(support) == {}


@pytest.mark.parametrize(
    ("version", "target"), [("15.1", "iOS18"), ("26.0", "iOS18"), ("14.2", "iOS17"), ("12", "iOS15"), ("11.6", None)]
)
def test_what_a_mac_runs(version: str, target: str | None, hardware: Machine) -> None:
    assert devices.newest_target("macos", version) == target
    assert bool(on(hardware, "macos", version).offers) is (target is not None)


def test_without_torch_nothing_is_exported_or_checked(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str) -> Any:
        return None if name == "torch" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    support = on(hardware, "linux", "6")
    assert (support.offers[0].exports, support.offers[0].loads) == ((), ())
    assert reasons(support)["export to coreml"][0] == "torch is not installed"


def test_nothing_installed(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    support = on(hardware, "linux", "6")
    assert support.offers == ()
    assert [reason for reason, _ in reasons(support).values()] == ["coremltools is not installed"]


def test_devices_are_compute_units() -> None:
    assert devices.units_of("cpu_and_ne") == "CPU_AND_NE"
    with pytest.raises(OptionError, match="unknown device 'abacus'"):
        devices.units_of("abacus")
