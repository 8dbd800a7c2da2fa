from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from packaging.version import Version

from optimum_core.backend import package_folder
from optimum_core.testing.machine import Machine, reasons
from optimum_core.types import Gpu
from optimum_ort import devices, plugin

GPU = Gpu(vendor="nvidia", name="a GPU", compute_capability=(8, 9))


def fake_build(monkeypatch: pytest.MonkeyPatch, folder: Path, *libraries: str, **distributions: str) -> None:
    (folder / "capi").mkdir(exist_ok=True)
    for library in libraries:
        (folder / "capi" / library).touch()
    named = {name.replace("_", "-"): text for name, text in distributions.items()}
    monkeypatch.setattr(devices, "find_build", lambda: devices.Build(folder=folder, distributions=named))


def test_the_cpu_is_offered(hardware: Machine) -> None:
    support = plugin.probe(hardware())
    (offer,) = support.offers
    assert (offer.device, offer.loads, offer.precisions) == ("cpu", ("onnx",), ("fp32",))
    assert offer.levels == ("all", "fusions", "ort_fusions")
    assert (offer.stateful, offer.stateful_levels) == (("onnx",), ("shared_cache", "all"))
    assert [(way.takes, way.gives) for way in offer.optimizes] == [("onnx", "onnx")]
    assert offer.quantizes == offer.optimizes
    assert [scheme for scheme in offer.schemes if scheme not in offer.runs] == ["static-fp8"]
    assert {"static-int8", "dynamic-int8", "weight-only-int8", "weight-only-int4"} <= set(offer.schemes)
    assert support.versions["onnxruntime"] == version("onnxruntime")
    assert reasons(support)["run on 'cuda' (CUDAExecutionProvider)"][0] == "no NVIDIA GPU found"


def test_the_opset_offered_is_the_newest_that_loads(hardware: Machine) -> None:
    (offer,) = plugin.probe(hardware()).offers
    assert offer.opset is not None
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])

    def opens(opset: int) -> bool:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            return False
        return True

    assert opens(offer.opset)
    if (1, 31) <= Version(onnxruntime.__version__).release[:2] < (1, 32):
        assert offer.opset == max(n for n in range(20, onnx.defs.onnx_opset_version() + 1) if opens(n))


def test_a_gpu_needs_another_build(hardware: Machine) -> None:
    support = plugin.probe(hardware(gpus=(GPU,)))
    assert [offer.device for offer in support.offers] == ["cpu"]
    reason, remedy = reasons(support)["run on 'cuda' (CUDAExecutionProvider)"]
    assert "does not contain it" in reason
    assert "pip install onnxruntime-gpu" in remedy


def test_a_gpu_build_with_its_gpu(hardware: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(monkeypatch, tmp_path, "libonnxruntime_providers_cuda.so", onnxruntime_gpu="1.31.0")
    cpu, cuda = plugin.probe(hardware(gpus=(GPU,))).offers
    assert (cuda.device, cuda.opset) == ("cuda", cpu.opset)
    assert cuda.precisions == ("fp32", "fp16")


def test_other_systems(hardware: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(monkeypatch, tmp_path, onnxruntime="1.24.0")
    mac = plugin.probe(hardware(system="macos"))
    assert [offer.device for offer in mac.offers] == ["cpu", "coreml"]
    assert mac.offers[0].opset == 22
    assert reasons(mac)["run on 'dml' (DmlExecutionProvider)"][0] == "it exists on Windows only"


def test_two_builds_overwrite_each_other(hardware: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(monkeypatch, tmp_path, onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    reason, remedy = reasons(plugin.probe(hardware()))["rely on the installed onnxruntime"]
    assert "onnxruntime and onnxruntime-gpu are both installed" in reason
    assert "pip uninstall onnxruntime onnxruntime-gpu" in remedy


def test_nothing_installed(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_build", lambda: None)
    support = plugin.probe(hardware())
    assert support.offers == ()
    assert reasons(support) == {"run ONNX models": ("onnxruntime is not installed", "pip install onnxruntime")}


def test_levels_without_their_packages(hardware: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        devices, "package_folder", lambda name: None if name == "transformers" else package_folder(name)
    )
    support = plugin.probe(hardware())
    assert support.offers[0].levels == ("all", "fusions")
    assert support.offers[0].stateful_levels == ("shared_cache", "all")
    assert "optimize at level 'ort_fusions'" in reasons(support)
