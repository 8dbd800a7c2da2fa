"""Machines that are made up, for tests of their description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_core.hardware import Machine


def machine(root: Path, **facts: Any) -> Machine:
    """Return a Linux server of 64 cores and 256 GiB that answers from `root` only, with other facts."""
    known: dict[str, Any] = {
        "system": "linux",
        "system_version": "6.8.0-41-generic",
        "architecture": "x86_64",
        "logical_cores": 128,
        "physical_cores": 64,
        "allowed_cores": 128,
        "memory": 256 * 2**30,
        "root": root,
        "run": lambda command: None,
        "cpuinfo": dict,
        "nvml": lambda: None,
        "registry": lambda device_class: (),
    }
    return Machine(**{**known, **facts})


def lay_out(root: Path, files: Mapping[str, str]) -> Path:
    """Write files under `root`, and return it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return root
