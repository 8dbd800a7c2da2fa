"""`optimum-core new-backend`: what it writes is whole, installs, and keeps the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_core.cli import new_backend
from optimum_core.cli.new_backend import write_distribution
from optimum_core.errors import ArtifactError, OptionError


def test_what_is_written_installs_and_passes_its_tests(tmp_path: Path) -> None:
    """By its wheel, in a process that finds it by its metadata. The slow half of the kit is left to its author."""
    folder, site = write_distribution("stone-age", tmp_path / "new"), tmp_path / "site"
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env = {**own, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of other libraries take seconds to import
    install = ("pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site))
    kept = "plugin or ((text or not agrees) and not (threads or leak or process or damaged or refused or layout))"
    for command in ((*install, str(folder)), ("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-k", kept)):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "agrees" not in done.stdout
    source = folder.joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert 'stone-age = "optimum_stone_age.plugin"' in source
    written = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not [path for path in written if "$" in path.read_text("utf-8")]


@pytest.mark.parametrize("name", ["", "auto", "Acme", "3d", "a:b", "-a", "acme-", "../up", "a..b"])
def test_a_name_that_no_target_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="cannot have this name"):
        write_distribution(name, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("torch", "optimum-core"),
        ("trt", "optimum-trt|Optimum Core"),
        ("core", "the installed package optimum_core"),
        ("serve", "the installed package optimum_serve"),
    ],
)
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str, owner: str) -> None:
    with pytest.raises(OptionError, match=f"taken by ({owner})"):
        write_distribution(name, tmp_path)


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "optimum-acme").mkdir()
    with pytest.raises(ArtifactError, match="it exists"):
        write_distribution("acme", tmp_path)
    assert not any((tmp_path / "optimum-acme").iterdir())


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, values: dict[str, str]) -> None:
        folder.mkdir()
        (folder / "README.md").write_text("half", "utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_backend, "_fill", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        write_distribution("acme", tmp_path)
    assert not any(tmp_path.iterdir())
