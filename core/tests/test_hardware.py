"""The whole machine: what `survey` puts together, what `describe` says, and what looking at it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from machines import lay_out, machine
from optimum_core.hardware import describe, detect, survey
from optimum_core.hardware.machine import registry_devices, run_command
from optimum_core.types import Cpu, Gpu, Hardware, Npu


def test_this_machine_is_found_and_found_once() -> None:
    hardware = detect()
    assert hardware is detect()
    assert 1 <= hardware.cpu.physical_cores <= (psutil.cpu_count() or 1)
    assert 1 <= hardware.cpu.usable_cores <= (psutil.cpu_count() or 1)
    assert 0 < hardware.memory <= psutil.virtual_memory().total
    assert hardware.cpu.model != "unknown"
    assert hardware.cpu.features, "every processor that runs these tests has some instruction set of the table"


def test_a_container_with_two_of_sixty_four_cores_has_two(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/cpuinfo": "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9554 64-Core Processor\nflags\t\t: avx2",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/memory.max": str(4 * 2**30),
        },
    )
    hardware = survey(machine(root))
    assert (hardware.cpu.physical_cores, hardware.cpu.usable_cores) == (64, 2)
    assert hardware.memory == 4 * 2**30
    assert (hardware.cpu.vendor, hardware.cpu.features) == ("amd", frozenset({"avx2"}))


def test_a_machine_that_says_nothing_is_still_described(tmp_path: Path) -> None:
    hardware = survey(machine(tmp_path, physical_cores=None, allowed_cores=None))
    assert hardware.cpu == Cpu(
        vendor="unknown",
        model="unknown",
        architecture="x86_64",
        features=frozenset(),
        physical_cores=128,
        usable_cores=128,
    )
    assert hardware.memory == 256 * 2**30
    assert (hardware.gpus, hardware.npus) == ((), ())
    assert dict(describe(hardware))["CPU features"] == "none known"


def test_a_limit_above_the_machine_is_no_limit(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(2**50)})
    assert survey(machine(root)).memory == 256 * 2**30


def test_control_groups_are_asked_on_linux_only(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "100000 100000",
            "sys/fs/cgroup/memory.max": "1024",
        },
    )
    hardware = survey(machine(root, system="windows"))
    assert (hardware.cpu.usable_cores, hardware.memory) == (128, 256 * 2**30)


def test_describe_tells_cores_memory_and_devices() -> None:
    hardware = Hardware(
        system="linux",
        system_version="6.8.0",
        cpu=Cpu(
            vendor="intel",
            model="Intel(R) Xeon(R) Processor",
            architecture="x86_64",
            features=frozenset({"avx512_vnni", "avx2"}),
            physical_cores=8,
            usable_cores=2,
        ),
        memory=3 * 2**29,
        gpus=(
            Gpu(vendor="nvidia", name="NVIDIA L4", memory=22 * 2**30, compute_capability=(8, 9), driver="550.54.15"),
            Gpu(vendor="intel", name="Intel GPU 0x56a0"),
        ),
        npus=(Npu(vendor="intel", name="Intel NPU 0x643e"),),
    )
    assert describe(hardware) == [
        ("System", "linux 6.8.0, x86_64"),
        ("CPU", "Intel(R) Xeon(R) Processor, 2 of 8 cores usable"),
        ("CPU features", "avx2 avx512_vnni"),
        ("Memory", "1.5 GiB"),
        ("GPUs", "NVIDIA L4, 22.0 GiB, compute capability 8.9, driver 550.54.15; Intel GPU 0x56a0"),
        ("NPUs", "Intel NPU 0x643e"),
    ]


def test_describe_does_not_claim_more_cores_than_there_are(tmp_path: Path) -> None:
    rows = dict(describe(survey(machine(tmp_path))))
    assert rows["CPU"] == "unknown, 64 cores, 128 hardware threads usable"
    assert (rows["GPUs"], rows["NPUs"]) == ("none found", "none found")


def test_a_command_gives_its_output_or_nothing() -> None:
    assert run_command([sys.executable, "-c", "print('yes')"]) == "yes\n"
    assert run_command([sys.executable, "-c", "print('no'); raise SystemExit(3)"]) is None
    assert run_command(["no-such-command-anywhere"]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a registry")
def test_elsewhere_than_on_windows_the_registry_lists_nothing() -> None:
    assert registry_devices("{4d36e968-e325-11ce-bfc1-08002be10318}") == ()


@pytest.mark.parametrize(
    ("statement", "denied"),
    [
        (
            "from optimum_core.hardware import detect; detect()",
            {"torch", "numpy", "onnxruntime", "openvino", "transformers", "tensorrt", "coremltools"},
        ),
        ("import optimum_core", {"numpy", "torch", "transformers", "onnxruntime", "rich", "typer", "pluggy"}),
        ("import optimum_core.hardware", {"cpuinfo", "pynvml"}),
    ],
)
def test_looking_at_the_machine_imports_no_runtime(statement: str, denied: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({denied!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
