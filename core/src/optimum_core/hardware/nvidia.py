"""NVIDIA GPUs, read from nvidia-ml-py where it is installed, else from nvidia-smi, else from the driver's files.

All GPUs that the driver shows are listed; `CUDA_VISIBLE_DEVICES` selects among them later, in the runtime.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from optimum_core.hardware.files import read_text, to_int
from optimum_core.hardware.machine import Machine
from optimum_core.types.hardware import Gpu

_LOG = logging.getLogger(__name__)
_QUERY = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,compute_cap,driver_version",
    "--format=csv,noheader,nounits",
)
_MIB = 2**20


def nvidia_gpus(machine: Machine) -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that this process can reach, in the driver's order."""
    if machine.system == "macos":  # no driver since 10.14
        return ()
    return _from_nvml(machine.nvml()) or parse_smi(machine.run(_QUERY) or "") or _from_proc(machine)


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Parse the output of the query above: one line per GPU, "NVIDIA L4, 23034, 8.9, 550.54.15", memory in MiB."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.rsplit(",", 3)]
        if len(fields) != 4 or not fields[0]:
            continue
        name, mebibytes, capability, driver = fields
        memory = to_int(mebibytes)
        gpus.append(
            Gpu(
                vendor="nvidia",
                name=name,
                memory=None if memory is None else memory * _MIB,
                compute_capability=_capability(capability),
                driver=driver if driver[:1].isdigit() else None,
            )
        )
    return tuple(gpus)


def _capability(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", text)
    return (int(match[1]), int(match[2])) if match else None


def _from_nvml(nvml: Any | None) -> tuple[Gpu, ...]:
    if nvml is None:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:  # no driver, or none that this process may use
        _LOG.debug("NVML does not start: %s", error)
        return ()
    try:
        driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(_nvml_gpu(nvml, handle, _string(driver)) for handle in handles)
    except nvml.NVMLError as error:
        _LOG.debug("NVML cannot list the GPUs: %s", error)
        return ()
    finally:
        _ask(nvml, nvml.nvmlShutdown)


def _nvml_gpu(nvml: Any, handle: Any, driver: str | None) -> Gpu:
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    return Gpu(
        vendor="nvidia",
        name=_string(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
        memory=None if memory is None else int(memory.total),
        compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
        driver=driver,
    )


def _ask(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any | None:
    try:
        return question(*arguments)
    except nvml.NVMLError:  # some GPUs do not report some facts: memory, where it is the machine's
        return None


def _string(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value  # bytes before version 12


def _from_proc(machine: Machine) -> tuple[Gpu, ...]:
    # A container sees the host's /proc even when it was not given the GPU; then the device node is missing.
    if not (machine.root / "dev/nvidiactl").exists():
        return ()
    folder = machine.root / "proc/driver/nvidia"
    version = re.search(r"\b[0-9]{2,}\.[0-9]+(?:\.[0-9]+)?\b", read_text(folder / "version") or "")
    names = (_model_of(read_text(path) or "") for path in sorted(folder.glob("gpus/*/information")))
    return tuple(Gpu(vendor="nvidia", name=name, driver=version[0] if version else None) for name in names if name)


def _model_of(information: str) -> str:
    match = re.search(r"^Model:[ \t]*(.+?)[ \t]*$", information, re.MULTILINE)
    return match[1] if match else ""
