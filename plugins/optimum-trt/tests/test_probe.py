from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import pytest

from optimum_core.errors import UnavailableError
from optimum_core.plan import parse_target, ways
from optimum_core.plugins import manager
from optimum_core.testing.machine import Machine, reasons
from optimum_core.types import Gpu, Hardware, QuantizeConfig
from optimum_trt import devices, modules, plugin
from optimum_trt.modules import RTX, TENSORRT, Found, capability_of, sm

WithGpu = Callable[..., Hardware]


def installed(monkeypatch: pytest.MonkeyPatch, *found: modules.Module) -> None:
    answer = tuple(Found(module=module, version="11.0") for module in found)
    monkeypatch.setattr(devices, "find", lambda: answer)


def test_without_a_gpu_others_are_built_for(hardware: Machine) -> None:
    support = plugin.probe(hardware())
    assert [offer.device for offer in support.offers] == ["sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"]
    assert {offer.proof for offer in support.offers} == {"none"}
    assert support.versions["tensorrt-rtx"] == version("tensorrt-rtx")
    reason, remedy = reasons(support)["run engines"]
    assert reason == "no NVIDIA GPU with a driver was found here" and "optimum_core.load" in remedy
    assert "sm_90" in reasons(support)["build for sm_90"][0]


def test_precisions_and_schemes_follow_the_capability(hardware: Machine) -> None:
    offers = {offer.device: offer for offer in plugin.probe(hardware()).offers}
    assert offers["sm_75"].precisions == ("fp16",)
    assert offers["sm_80"].precisions == ("fp32", "fp16", "bf16")
    fp8 = {device for device, offer in offers.items() if "static-fp8" in offer.runs}
    assert fp8 == {"sm_89", "sm_120", "sm_121"}
    for offer in offers.values():
        assert [QuantizeConfig.named(name).name for name in offer.runs] == list(offer.runs)


def test_a_gpu_is_offered_with_proof_on_the_device(with_gpu: WithGpu) -> None:
    first, *others = plugin.probe(with_gpu((8, 9))).offers
    assert (first.device, first.proof, first.loads) == ("cuda", "device", ("tensorrt-engine",))
    assert {offer.proof for offer in others} == {"none"}
    assert "run engines" not in reasons(plugin.probe(with_gpu((8, 9))))


def test_h100_needs_the_other_module(with_gpu: WithGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = plugin.probe(with_gpu((9, 0)))
    assert "cuda" not in [offer.device for offer in alone.offers]
    reason, remedy = reasons(alone)["run engines"]
    assert "tensorrt_rtx cannot run on a GPU (sm_90)" in reason and "pip install tensorrt" in remedy
    installed(monkeypatch, TENSORRT, RTX)
    assert plugin.probe(with_gpu((9, 0))).offers[0].device == "cuda"


def test_tensorrt_alone_builds_for_the_gpu_at_hand(
    hardware: Machine, with_gpu: WithGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, TENSORRT)
    assert plugin.probe(hardware()).offers == ()
    assert [offer.device for offer in plugin.probe(with_gpu((8, 6))).offers] == ["cuda"]
    assert devices.choose_module("sm_86", None, with_gpu((8, 6)), "test") == (TENSORRT, None)
    with pytest.raises(UnavailableError, match="builds for the GPU at hand only, and sm_89 is not here"):
        devices.choose_module("sm_89", None, with_gpu((8, 6)), "test")


def test_with_both_the_module_follows_the_device(with_gpu: WithGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, TENSORRT, RTX)
    choose = devices.choose_module
    assert choose("cuda", None, with_gpu((8, 9)), "test") == (TENSORRT, None)
    assert choose("cuda", "tensorrt_rtx", with_gpu((8, 9)), "test") == (RTX, None)
    assert choose("sm_120", None, with_gpu((8, 9)), "test") == (RTX, (12, 0))


def test_nothing_installed_or_another_system(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mac = plugin.probe(hardware(system="macos"))
    assert mac.offers == () and "does not exist for macos" in mac.limitations[0].reason
    installed(monkeypatch)
    (missing,) = plugin.probe(hardware()).limitations
    assert "tensorrt or tensorrt-rtx is not installed" in missing.reason and "optimum-trt[rtx]" in missing.remedy


def test_gpus_of_others_do_not_count(hardware: Machine) -> None:
    amd = hardware(gpus=(Gpu(vendor="amd", name="a GPU"),))
    assert "cuda" not in [offer.device for offer in plugin.probe(amd).offers]


@pytest.mark.parametrize(
    ("device", "capability"), [("sm_75", (7, 5)), ("sm_120", (12, 0)), ("sm_9", None), ("cuda", None)]
)
def test_capabilities_are_read_from_devices(device: str, capability: tuple[int, int] | None) -> None:
    assert capability_of(device) == capability
    assert capability is None or sm(capability) == device


def test_the_planner_finds_the_way_to_a_named_target(hardware: Machine) -> None:
    supports = {**manager().supports(hardware()), "trt": plugin.probe(hardware())}
    (way,) = ways(supports, parse_target("trt:sm_89"), precision="fp16")
    assert (way.exporter, way.format, way.device) == ("onnx", "tensorrt-engine", "sm_89")
    assert way.transforms == (("trt", "onnx", "tensorrt-engine"),)
    with pytest.raises(UnavailableError, match=r"sm_90.*H100"):
        ways(supports, parse_target("trt:sm_90"))
