"""The sources of facts about the machine, gathered in one class so that tests can replace them."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_LOG = logging.getLogger(__name__)
_COMMAND_SECONDS = 10.0
_SYSTEMS = {"darwin": "macos"}
_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def run_command(command: Sequence[str]) -> str | None:
    """Return a command's output, or None where it is not on PATH, fails, or takes longer than ten seconds."""
    executable = shutil.which(command[0])
    if executable is None:
        return None
    try:
        done = subprocess.run(
            [executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.debug("%s did not answer: %s", executable, error)
        return None
    return done.stdout if done.returncode == 0 else None


def ask_cpuinfo() -> Mapping[str, object]:
    """Return the facts of py-cpuinfo; empty where it does not know the processor."""
    # Imported here because it is slow, and because Linux and macOS do not need it.
    import cpuinfo

    try:
        facts: dict[str, object] = cpuinfo.get_cpu_info()
    except Exception:  # noqa: BLE001 - it raises a bare Exception on processors it does not know
        _LOG.debug("py-cpuinfo does not know this processor", exc_info=True)
        return {}
    return facts


def import_nvml() -> Any | None:
    """Return the module `pynvml` of nvidia-ml-py, or None where it is not installed or does not import."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None
    except Exception:  # noqa: BLE001 - an optional package that is broken must not hide the rest of the machine
        _LOG.debug("pynvml is installed but does not import", exc_info=True)
        return None


def registry_devices(device_class: str) -> tuple[Mapping[str, object], ...]:
    """Return the registry values of every Windows driver of a device class, a GUID in braces; elsewhere nothing."""
    if sys.platform != "win32":
        return ()
    import winreg

    devices = []
    path = rf"SYSTEM\CurrentControlSet\Control\Class\{device_class}"
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as parent:
            for index in range(winreg.QueryInfoKey(parent)[0]):
                name = winreg.EnumKey(parent, index)
                if not name.isdigit():  # beside the numbered devices are keys that only administrators may open
                    continue
                with winreg.OpenKey(parent, name) as key:
                    values = [winreg.EnumValue(key, value) for value in range(winreg.QueryInfoKey(key)[1])]
                devices.append({str(value[0]): value[1] for value in values})
    except OSError as error:
        _LOG.debug("the registry does not list %s: %s", path, error)
    return tuple(devices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The basic facts of the operating system, and functions that return further ones.

    Attributes:
        logical_cores: hardware threads that the system sees.
        physical_cores: cores without hyper-threads, None where unknown.
        allowed_cores: hardware threads that this process's affinity allows, None where the system has no affinity.
        memory: bytes of the whole machine.
        root: the directory that holds /proc, /sys and /dev.
        run: returns a command's output, or None.
        cpuinfo: returns the facts of py-cpuinfo.
        nvml: returns the module `pynvml`, or None.
        registry: returns the registry values of the drivers of a Windows device class.
    """

    system: str
    system_version: str
    architecture: str
    logical_cores: int
    physical_cores: int | None
    allowed_cores: int | None
    memory: int
    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run_command
    cpuinfo: Callable[[], Mapping[str, object]] = ask_cpuinfo
    nvml: Callable[[], Any | None] = import_nvml
    registry: Callable[[str], Sequence[Mapping[str, object]]] = registry_devices

    @classmethod
    def here(cls) -> Machine:
        """Return the machine that this process runs on."""
        system = platform.system().lower() or "unknown"
        architecture = platform.machine().lower() or "unknown"
        return cls(
            system=_SYSTEMS.get(system, system),
            system_version=_system_version(system),
            architecture=_ARCHITECTURES.get(architecture, architecture),
            logical_cores=psutil.cpu_count() or os.cpu_count() or 1,
            physical_cores=psutil.cpu_count(logical=False),
            allowed_cores=_allowed_cores(),
            memory=int(psutil.virtual_memory().total),
        )


def _system_version(system: str) -> str:
    if system == "darwin":
        return platform.mac_ver()[0]
    # On Windows the release is only "10" or "11"; the version holds the build, which drivers depend on.
    return platform.version() if system == "windows" else platform.release()


def _allowed_cores() -> int | None:
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):  # macOS
        return None
    try:
        return len(process.cpu_affinity())
    except (OSError, psutil.Error):
        return None
