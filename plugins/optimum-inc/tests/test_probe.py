from __future__ import annotations

import importlib.util
from importlib.metadata import version
from typing import Any

import pytest

from optimum_core.testing.machine import Machine, reasons
from optimum_core.types import Hardware
from optimum_inc import devices, plugin


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name in names else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def on_linux(hardware: Machine) -> Hardware:
    return hardware(system="linux", architecture="x86_64")


def test_the_cpu_is_offered(hardware: Machine) -> None:
    support = plugin.probe(on_linux(hardware))
    (offer,) = support.offers
    assert (offer.device, offer.exports, offer.loads) == ("cpu", ("torch-export",), ("torch-inductor",))
    assert {(step.takes, step.gives) for step in offer.quantizes} >= {("torch-export", "torch-inductor")}
    assert next(step for step in offer.quantizes if step.gives == "onnx").schemes == ("static-int8",)
    assert offer.precisions == ("fp32",)
    assert offer.schemes == offer.runs == devices.SCHEMES
    assert support.versions["torch"] == version("torch")


def test_nothing_is_promised_where_nothing_was_proved(hardware: Machine) -> None:
    for system, architecture in (("macos", "arm64"), ("windows", "x86_64"), ("linux", "aarch64")):
        support = plugin.probe(hardware(system=system, architecture=architecture))
        (offer,) = support.offers
        assert offer.exports and not offer.quantizes and not offer.loads and not offer.runs
        told = {item.hook for item in support.limitations if "not proved" in item.reason}
        assert told == {"quantize", "load_session"}


def test_without_neural_compressor_packages_still_run(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "neural_compressor")
    support = plugin.probe(on_linux(hardware))
    (offer,) = support.offers
    assert offer.loads and offer.runs and not offer.quantizes and not offer.schemes
    assert reasons(support)["quantize torch-export"][1] == "pip install 'optimum-inc[quantize]'"


def test_without_a_compiler_packages_still_run(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    support = plugin.probe(on_linux(hardware))
    (offer,) = support.offers
    assert offer.loads and not offer.quantizes
    assert "g++" in reasons(support)["compile torch-inductor"][1]


def test_without_torch_there_is_nothing(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    support = plugin.probe(hardware())
    assert support.offers == ()
    assert reasons(support) == {"run torch-inductor": ("torch is not installed", "pip install torch")}
