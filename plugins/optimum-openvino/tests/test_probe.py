from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openvino
import pytest

from optimum_core.errors import OptionError
from optimum_core.hardware import detect
from optimum_core.testing.machine import Machine, reasons
from optimum_core.types import Gpu, Npu
from optimum_openvino import devices, plugin


def test_the_cpu_is_offered(hardware: Machine) -> None:
    support = plugin.probe(hardware())
    (offer,) = support.offers
    assert (offer.device, offer.exports, offer.loads) == ("cpu", ("openvino-ir",), ("openvino-ir", "onnx"))
    assert offer.routes == devices.ROUTES
    assert offer.precisions[0] == "fp32"
    assert support.versions["openvino"] == version("openvino")
    assert reasons(support)["run on 'gpu'"][0] == "no Intel GPU found"
    assert reasons(support)["run on 'npu'"][0] == "no Intel NPU found"


def test_precisions_offered_are_those_that_openvino_reports() -> None:
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
    assert {names[name] for name in devices.cpu_precisions(detect().cpu)} <= set(capabilities)


@pytest.mark.parametrize(
    ("architecture", "features", "precisions"),
    [
        ("x86_64", {"avx2"}, ("fp32",)),
        ("x86_64", {"avx512_bf16"}, ("fp32", "bf16")),
        ("x86_64", {"amx_bf16", "avx512_fp16"}, ("fp32", "bf16", "fp16")),
        ("aarch64", {"neon", "fp16", "bf16"}, ("fp32", "fp16")),
    ],
)
def test_precisions_of_processors(
    architecture: str, features: set[str], precisions: tuple[str, ...], hardware: Machine
) -> None:
    cpu = hardware(architecture=architecture, features=features).cpu
    assert devices.cpu_precisions(cpu) == precisions


def test_intel_gpus_and_npus(hardware: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, npu = Gpu(vendor="intel", name="Arc"), Npu(vendor="intel", name="AI Boost")
    machine = hardware(gpus=(gpu,), npus=(npu,))
    (tmp_path / "libs").mkdir()
    for name in ("libopenvino_intel_gpu_plugin.so", "libopenvino_intel_npu_plugin.so"):
        (tmp_path / "libs" / name).touch()
    monkeypatch.setattr(devices, "package_folder", lambda name: tmp_path)
    offers = {offer.device: offer for offer in plugin.probe(machine).offers}
    assert list(offers) == ["cpu", "gpu", "npu"]
    assert offers["gpu"].precisions == ("fp32", "fp16")
    (tmp_path / "libs" / "libopenvino_intel_gpu_plugin.so").unlink()
    support = plugin.probe(machine)
    assert [offer.device for offer in support.offers] == ["cpu", "npu"]
    assert "no GPU plugin" in reasons(support)["run on 'gpu'"][0]


def test_nothing_installed(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "package_folder", lambda name: None)
    support = plugin.probe(hardware())
    assert support.offers == ()
    assert reasons(support) == {"run OpenVINO IR and ONNX": ("openvino is not installed", "pip install openvino")}


def test_without_torch_it_still_runs(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str) -> Any:
        return None if name == "torch" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    support = plugin.probe(hardware())
    assert (support.offers[0].exports, support.offers[0].routes) == ((), ())
    assert reasons(support)["export to openvino-ir"][0] == "torch is not installed"


@pytest.mark.parametrize(("device", "name"), [("cpu", "CPU"), ("gpu:1", "GPU.1"), ("GPU.1", "GPU.1"), ("NPU", "NPU")])
def test_spelling_of_devices(device: str, name: str) -> None:
    assert devices.parse_device(device).runtime_name == name


def test_unknown_devices() -> None:
    for device in ("abacus", "gpu:first"):
        with pytest.raises(OptionError, match="unknown device"):
            devices.parse_device(device)
