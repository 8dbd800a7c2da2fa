"""A backend that core has never heard of: installed as a wheel beside core's, it is found, measured and chosen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from wheels import install, new_environment, wheel

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = Path(__file__).with_name("foreign")
EXAMPLE = ROOT / "docs" / "examples" / "optimum-tract"

_INFOS = """
import dataclasses, json, optimum_core
from optimum_core.plugins import manager
print(json.dumps([optimum_core.__file__, [dataclasses.asdict(info) for info in manager().infos()]]))
"""

_REFUSED = """
from optimum_core.errors import UnavailableError
from optimum_core.hardware import detect
from optimum_core.plan import Target, ways
from optimum_core.plugins import manager
try:
    ways(manager().supports(detect()), Target(backend="tract"))
except UnavailableError as error:
    print(error)
"""


def _run(*command: str | Path, cwd: Path) -> str:
    """Return the output of a command, which sees no import path and no setting of ours."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    env = {key: value for key, value in env.items() if not key.startswith(("OPTIMUM_", "PYTEST_"))}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of other libraries take seconds to import
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _is_ours(name: str) -> bool:
    lowered = name.lower()
    return lowered.startswith(("optimum", "_optimum", "__editable__")) or (
        lowered.endswith(".pth") and ("optimum" in lowered or "editable" in lowered)
    )


def _lend_packages(site: Path) -> None:
    """Everything that is installed here and not ours, by links: torch is too large to be copied for a test."""
    for key in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for item in Path(key).iterdir():
            place = site / item.name
            if _is_ours(item.name) or item.name == "__pycache__" or place.exists():
                continue
            try:
                place.symlink_to(item, target_is_directory=item.is_dir())
            except OSError as error:
                pytest.skip(f"this system does not let us make links: {error}")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheels of core and two plugins, and nothing else of ours."""
    found, site = new_environment(tmp_path_factory.mktemp("foreign") / "env")
    _lend_packages(site)
    install(found, *(wheel(tmp_path_factory, project) for project in (ROOT / "core", FOREIGN, EXAMPLE)))
    return found


def test_it_is_found_and_ready_beside_the_builtin_backends(python: Path, tmp_path: Path) -> None:
    origin, infos = json.loads(_run(python, "-c", _INFOS, cwd=tmp_path))
    assert Path(origin).is_relative_to(python.parents[1]), "core comes from elsewhere"
    states = {info["name"]: (info["distribution"], info["status"], info["error"]) for info in infos}
    assert states["acme"] == ("acme-backend", "ready", "")
    assert states["tract"] == ("optimum-tract", "ready", "")
    assert set(states) == {"acme", "onnx", "torch", "tract"}


@pytest.fixture(scope="module")
def used(python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The results of a user's program, and the output of the conformance kit: one process imports torch for both."""
    folder = tmp_path_factory.mktemp("used")
    for name in ("fast_bert.py", "conformance.py"):
        shutil.copyfile(FOREIGN / name, folder / name)
    said = _run(python, "fast_bert.py", "cache", "conformance.py", cwd=folder)
    found, _, kit = said.partition("\n")
    return json.loads(found), kit


def test_auto_measures_it_and_chooses_it(used: tuple[dict[str, Any], str]) -> None:
    result, _ = used
    assert result["tried"] == ["acme", "torch"]
    assert result["chosen"] == "acme"
    assert result["error"] < 1e-3


def test_it_passes_the_conformance_kit(used: tuple[dict[str, Any], str]) -> None:
    assert " passed" in used[1] and "failed" not in used[1]


@pytest.mark.skipif(find_spec("tract") is not None, reason="tract is installed")
def test_the_example_says_what_it_lacks(python: Path, tmp_path: Path) -> None:
    """Its engine is not installed for our tests: what is tested is that it is found, light, and says what to do."""
    (found,) = [
        item
        for item in json.loads(_run(python, "-m", "optimum_core", "plugins", "--json", cwd=tmp_path))
        if item["name"] == "tract"
    ]
    assert (found["offers"], found["imports"]) == ([], [])
    assert found["limitations"] == [
        {
            "what": "run tract-onnx",
            "reason": "tract is not installed",
            "remedy": "pip install tract",
            "hook": None,
            "device": None,
            "level": None,
        }
    ]
    failed = _run(python, "-c", _REFUSED, cwd=tmp_path)
    assert "it cannot run tract-onnx: tract is not installed (pip install tract)" in failed


@pytest.mark.skipif(find_spec("tract") is None, reason="pip install tract")
def test_the_example_passes_the_conformance_kit(python: Path, tmp_path: Path) -> None:
    assert "keeps the contract" in _run(python, "-m", "optimum_core.testing", "tract", cwd=tmp_path)
