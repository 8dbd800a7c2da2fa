"""The contract in pyproject.toml names every module that plugins may not import, and no public one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from optimum_core.testing.imports import PUBLIC

ROOT = Path(__file__).resolve().parents[1]


def test_every_module_of_core_is_public_or_closed_to_plugins() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(item for item in tools["contracts"] if item["id"] == "plugins-use-public-rooms")
    there = {path.stem for path in (ROOT / "core" / "src" / "optimum_core").glob("[a-z]*") if path.name != "py.typed"}
    assert {name.removeprefix("optimum_core.") for name in contract["forbidden_modules"]} == there - PUBLIC
    packages = {path.name for path in ROOT.glob("plugins/*/src/*") if (path / "__init__.py").is_file()}
    assert set(contract["source_modules"]) == packages == set(tools["root_packages"]) - {"optimum_core"}


def test_the_page_lists_the_public_modules() -> None:
    page = (ROOT / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `optimum_core\.(\w+)` \|", page, re.MULTILINE)
    assert set(listed) == PUBLIC


def test_a_backend_from_elsewhere_needs_no_more() -> None:
    sources = (ROOT / "tests" / "foreign" / "src").rglob("*.py")
    used = {name for path in sources for name in re.findall(r"optimum_core\.(\w+)", path.read_text(encoding="utf-8"))}
    assert used <= PUBLIC
