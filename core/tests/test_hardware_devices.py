"""GPUs and NPUs from NVML, nvidia-smi, sysfs, and the registry of Windows."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import lay_out, machine
from optimum_core.hardware.gpus import find_gpus, parse_registry_gpu, pci_vendor
from optimum_core.hardware.machine import import_nvml, run_command
from optimum_core.hardware.npus import find_npus
from optimum_core.hardware.nvidia import parse_smi
from optimum_core.types import Gpu, Npu

MIB = 2**20
L4 = Gpu(vendor="nvidia", name="NVIDIA L4", memory=23034 * MIB, compute_capability=(8, 9), driver="550.54.15")


class Nvml:
    """As much of `pynvml` as is asked, for one L4 that does not tell its memory when `shy`."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, starts: bool = True, shy: bool = False) -> None:
        self.starts, self.shy, self.open = starts, shy, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names
        if not self.starts:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"550.54.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA L4"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> types.SimpleNamespace:  # noqa: N802
        if self.shy:
            raise self.NVMLError("Not Supported")
        return types.SimpleNamespace(total=23034 * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return (8, 9)


def test_nvml_is_asked_first_and_closed_again(tmp_path: Path) -> None:
    nvml = Nvml()

    def run(command: Sequence[str]) -> str | None:
        raise AssertionError(f"{command} is slower and not needed")

    assert find_gpus(machine(tmp_path, nvml=lambda: nvml, run=run), "") == (L4,)
    assert nvml.open == 0


def test_what_nvml_does_not_tell_is_unknown(tmp_path: Path) -> None:
    (gpu,) = find_gpus(machine(tmp_path, nvml=lambda: Nvml(shy=True)), "")
    assert (gpu.name, gpu.memory, gpu.compute_capability) == ("NVIDIA L4", None, (8, 9))


def test_nvml_without_a_driver_leaves_it_to_the_command(tmp_path: Path) -> None:
    asked = machine(tmp_path, nvml=lambda: Nvml(starts=False), run=lambda command: "NVIDIA L4, 23034, 8.9, 550.54.15\n")
    assert find_gpus(asked, "") == (L4,)


def test_pynvml_is_optional(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert import_nvml() is None
    monkeypatch.delitem(sys.modules, "pynvml")
    (tmp_path / "pynvml.py").write_text("raise OSError('no library')")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_nvml() is None


@pytest.mark.skipif(os.name == "nt", reason="a script with a shebang is no command on Windows")
def test_nvidia_smi_on_path_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(
        '#!/bin/sh\ncase "$*" in *compute_cap*noheader*) echo "NVIDIA L4, 23034, 8.9, 550.54.15";; esac\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus(machine(tmp_path, run=run_command), "") == (L4,)


def test_nvidia_smi_with_unknown_fields_and_several_gpus() -> None:
    gpus = parse_smi("NVIDIA GB10, [N/A], 12.1, 580.95.05\n\nTesla, K80 (odd), 11441, [N/A], [N/A]\nno devices\n")
    assert gpus == (
        Gpu(vendor="nvidia", name="NVIDIA GB10", compute_capability=(12, 1), driver="580.95.05"),
        Gpu(vendor="nvidia", name="Tesla, K80 (odd)", memory=11441 * MIB),
    )


PROC_NVIDIA = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n",
    "proc/driver/nvidia/gpus/3b.00.0/information": "Model: \t\t NVIDIA H100 PCIe\nIRQ:   \t\t 183\n",
    "proc/driver/nvidia/gpus/af.00.0/information": "IRQ:   \t\t 184\n",
}


def test_the_drivers_files_are_the_last_resort(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {**PROC_NVIDIA, "dev/nvidiactl": ""})
    assert find_gpus(machine(root), "") == (Gpu(vendor="nvidia", name="NVIDIA H100 PCIe", driver="550.54.15"),)


def test_gpus_that_were_not_given_to_the_container_are_not_listed(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            **PROC_NVIDIA,
            "dev/null": "",
            "sys/class/drm/card0/device/vendor": "0x1002\n",
            "sys/class/accel/accel0/device/vendor": "0x8086\n",
        },
    )
    assert find_gpus(machine(root), "") == ()
    assert find_npus(machine(root)) == ()


def test_amd_and_intel_gpus_from_sysfs(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "dev/dri/renderD128": "",
            "sys/class/drm/card10/device/vendor": "0x8086\n",
            "sys/class/drm/card10/device/device": "0x56a0\n",
            "sys/class/drm/card10/device/uevent": "DRIVER=xe\nPCI_CLASS=30000\n",
            "sys/class/drm/card2/device/vendor": "0x1002\n",
            "sys/class/drm/card2/device/device": "0x74a1\n",
            "sys/class/drm/card2/device/product_name": "AMD Instinct MI300X\n",
            "sys/class/drm/card2/device/mem_info_vram_total": "206141652992\n",
            "sys/class/drm/card2/device/uevent": "DRIVER=amdgpu\n",
            "sys/class/drm/card2-HDMI-A-1/device/vendor": "0x1002\n",
            "sys/class/drm/card3/device/vendor": "0x10de\n",
            "sys/class/drm/card4/device/vendor": "\x00garbage",
            "sys/class/drm/card5/status": "",
            "sys/class/drm/renderD128/device/vendor": "0x1002\n",
        },
    )
    assert find_gpus(machine(root), "") == (
        Gpu(vendor="amd", name="AMD Instinct MI300X", memory=206141652992, driver="amdgpu"),
        Gpu(vendor="intel", name="Intel GPU 0x56a0", driver="xe"),
    )


def test_intel_npu_from_sysfs(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "dev/accel/accel0": "",
            "dev/accel/accel1": "",
            "sys/class/accel/accel0/device/vendor": "0x8086\n",
            "sys/class/accel/accel0/device/device": "0x643e\n",
            "sys/class/accel/accel1/device/vendor": "0x1da3\n",
        },
    )
    assert find_npus(machine(root)) == (Npu(vendor="intel", name="Intel NPU 0x643e"),)


def test_apple_chips_have_both_and_intel_macs_neither(tmp_path: Path) -> None:
    apple = machine(tmp_path, system="macos", architecture="aarch64")
    assert find_gpus(apple, "Apple M2") == (Gpu(vendor="apple", name="Apple M2"),)
    assert find_npus(apple) == (Npu(vendor="apple", name="Apple Neural Engine"),)
    intel = machine(tmp_path, system="macos")
    assert (find_gpus(intel, "Intel(R) Core(TM) i7"), find_npus(intel)) == ((), ())


def test_windows_lists_what_its_registry_holds(tmp_path: Path) -> None:
    classes: dict[str, tuple[Mapping[str, object], ...]] = {
        "{4d36e968-e325-11ce-bfc1-08002be10318}": (
            {
                "DriverDesc": "Intel(R) Arc(TM) A770 Graphics",
                "DriverVersion": "31.0.101.5590",
                "HardwareInformation.qwMemorySize": 16 * 2**30,
                "MatchingDeviceId": r"PCI\VEN_8086&DEV_56A0",
            },
            {"DriverDesc": "Microsoft Basic Display Adapter", "MatchingDeviceId": r"ROOT\BasicDisplay"},
        ),
        "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}": (
            {"DriverDesc": "Intel(R) AI Boost", "MatchingDeviceId": r"PCI\VEN_8086&DEV_7D1D"},
            {"MatchingDeviceId": r"PCI\VEN_1022&DEV_1502"},
        ),
    }
    windows = machine(tmp_path, system="windows", registry=lambda device_class: classes[device_class])
    assert find_gpus(windows, "") == (
        Gpu(vendor="intel", name="Intel(R) Arc(TM) A770 Graphics", memory=16 * 2**30, driver="31.0.101.5590"),
    )
    assert find_npus(windows) == (Npu(vendor="intel", name="Intel(R) AI Boost"), Npu(vendor="amd", name="AMD NPU"))


@given(st.text())
def test_arbitrary_text_never_breaks_the_parsers(text: str) -> None:
    assert all(gpu.vendor == "nvidia" and gpu.name for gpu in parse_smi(text))
    assert pci_vendor(text) in (None, "amd", "intel")
    gpu = parse_registry_gpu({"MatchingDeviceId": "PCI\\VEN_1002&" + text, "DriverVersion": text, "DriverDesc": text})
    assert gpu is not None and gpu.vendor == "amd"
