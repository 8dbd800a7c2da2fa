"""Without torch, transformers and onnx: wheels, a new environment, and a saved artifact."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from wheels import install, new_environment, wheel

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = (ROOT / "core", ROOT / "plugins" / "optimum-ort")

_CHILD = """
import importlib.util, json, sys
import numpy as np
import optimum_core
from optimum_core import accelerate, load
from optimum_core.errors import OptimumError

artifact, arrays, model = sys.argv[1:]
absent = [name for name in ("torch", "transformers", "onnx") if importlib.util.find_spec(name) is None]
fast = load(artifact)
given = np.load(arrays)
answer = fast(**{name: given[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
want = given["want"]
refused = {}
for target in ("auto", "ort"):
    try:
        accelerate(model, target=target)
    except OptimumError as error:
        refused[target] = [type(error).__name__, str(error)]
tuned = load(artifact, retune=True, shapes=[(1, 9)])
print(json.dumps({
    "tuned": float(np.abs(tuned(**{name: given[name] for name in given if name != "want"})[0] - want).max()),
    "absent": absent, "core": optimum_core.__file__, "backend": fast.backend, "refused": refused,
    "error": float(np.abs(answer.last_hidden_state - want).max() / np.abs(want).max()),
    "same": answer[0] is answer["last_hidden_state"], "kind": type(answer[0]).__name__,
    "hidden_size": fast.config.hidden_size, "device": str(fast.device), "dtype": str(fast.dtype),
}))
"""


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OPTIMUM_", "PYTEST_"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


def _needed(names: Iterator[str] | list[str]) -> dict[str, metadata.Distribution]:
    """Distributions installed here that these need, and what those need; extras left out."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = metadata.distribution(requirement.name)
        waiting += found[requirement.name].requires or []
    return found


def _lend(site: Path) -> None:
    """The packages that ours declare, by links to those of this environment."""
    for name, distribution in _needed(["optimum-core", "optimum-ort"]).items():
        for file in distribution.files or () if not name.startswith("optimum") else ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment: our two wheels and what they declare, nothing else."""
    found, site = new_environment(tmp_path_factory.mktemp("torch-free") / "env")
    _lend(site)
    install(found, *(wheel(tmp_path_factory, project) for project in PROJECTS))
    return found


@pytest.fixture(scope="module")
def result(
    python: Path, tiny: Callable[[str], Any], to_ort: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Return the results of the new environment with an artifact that was saved here."""
    folder = tmp_path_factory.mktemp("artifact")
    model = tiny("bert features")
    model.save_pretrained(folder / "model")
    fast = to_ort(folder / "model", task="feature-extraction")
    fast.save_pretrained(folder / "out")
    ids = torch.randint(1, 110, (2, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        want = model(**inputs).last_hidden_state.numpy()
    arrays: dict[str, Any] = {name: value.numpy() for name, value in inputs.items()}
    np.savez(folder / "arrays.npz", want=want, **arrays)
    arguments = (folder / "out", folder / "arrays.npz", folder / "model")
    found: dict[str, Any] = json.loads(_run(python, "-c", _CHILD, *arguments, cwd=folder).stdout)
    return found


def test_nothing_heavy_is_there(python: Path, result: dict[str, Any]) -> None:
    assert result["absent"] == ["torch", "transformers", "onnx"]
    assert Path(result["core"]).is_relative_to(python.parents[1])


def test_an_artifact_gives_eagers_values(result: dict[str, Any]) -> None:
    assert result["backend"] == "ort"
    assert result["error"] < 1e-3
    assert (result["same"], result["kind"]) == (True, "ndarray")
    assert (result["hidden_size"], result["device"], result["dtype"]) == (32, "cpu", "float32")


def test_an_artifact_is_tuned_again(result: dict[str, Any]) -> None:
    assert result["tuned"] < 1e-3


@pytest.mark.parametrize("target", ["auto", "ort"])
def test_accelerate_says_what_is_missing(result: dict[str, Any], target: str) -> None:
    kind, said = result["refused"][target]
    assert kind == "UnavailableError"
    assert "torch and transformers not installed" in said
    assert "pip install 'optimum-core[export]'" in said


def test_the_command_works_there(python: Path, tmp_path: Path) -> None:
    done = _run(python.with_name(f"optimum-core{python.suffix}"), "plugins", cwd=tmp_path)
    assert "ort" in done.stdout
    assert "torch" in done.stdout
