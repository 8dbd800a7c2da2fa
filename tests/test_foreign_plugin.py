"""A backend that core has never heard of: installed as a wheel beside core's, it is found, measured and chosen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

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
    folder = tmp_path_factory.mktemp("foreign")
    for project in (ROOT / "core", FOREIGN, EXAMPLE):
        _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder / "dist", project, cwd=folder)
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    binaries = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    found = binaries / ("python.exe" if os.name == "nt" else "python")
    site = _run(found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    _lend_packages(Path(site.strip()))
    wheels = sorted((folder / "dist").glob("*.whl"))
    assert len(wheels) == 3
    _run(found, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", *wheels, cwd=folder)
    return found


def test_it_is_found_and_ready_beside_the_builtin_backends(python: Path, tmp_path: Path) -> None:
    origin, infos = json.loads(_run(python, "-c", _INFOS, cwd=tmp_path))
    assert Path(origin).is_relative_to(python.parents[1]), "core comes from elsewhere"
    states = {info["name"]: (info["distribution"], info["status"], info["error"]) for info in infos}
    assert states["acme"] == ("acme-backend", "ready", "")
    assert states["tract"] == ("optimum-tract", "ready", "")
    assert set(states) == {"acme", "onnx", "torch", "tract"}


@pytest.mark.skipif(find_spec("optimum_core.api") is None, reason="optimum_core.accelerate is not there yet")
def test_auto_measures_it_and_chooses_it(python: Path, tmp_path: Path) -> None:
    result: dict[str, Any] = json.loads(_run(python, FOREIGN / "fast_bert.py", tmp_path / "cache", cwd=tmp_path))
    assert result["tried"] == ["acme", "torch"]
    assert result["chosen"] == "acme"
    assert result["error"] < 1e-3


def test_it_passes_the_conformance_kit(python: Path, tmp_path: Path) -> None:
    suite = tmp_path / "test_acme.py"
    suite.write_bytes((FOREIGN / "conformance.py").read_bytes())
    said = _run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", suite, cwd=tmp_path)
    assert " passed" in said


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
