"""Wheels of this repository's packages, and new environments to install them in."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest

from optimum_core.testing.sharing import shared


def wheel(factory: pytest.TempPathFactory, project: Path) -> Path:
    """Return the wheel of the package in a directory, built once in a run of tests."""
    return shared(factory, f"wheel-{project.name}", partial(_build, project))


def _build(project: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def new_environment(folder: Path) -> tuple[Path, Path]:
    """Make an environment in which nothing is installed; return its interpreter and its `site-packages`."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    on_windows = os.name == "nt"
    python = folder / ("Scripts/python.exe" if on_windows else "bin/python")
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True)
    return python, Path(done.stdout.strip())


def install(python: Path, *wheels: Path) -> None:
    """Install wheels, without what they need, into the environment of an interpreter."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    options = ["install", "--quiet", "--no-compile", "--no-deps", "--no-index"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run([*pip, *options, *map(str, wheels)], env=env, check=True, capture_output=True)
