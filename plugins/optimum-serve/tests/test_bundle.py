"""A bundle installs and serves without an index. Packages of others are empty stand-ins here, unless an index may be
asked (`OPTIMUM_TEST_INDEX=1`): then they are the real ones, and the bundle answers a request without a network.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
import typer
from typer.testing import CliRunner

from optimum_core.errors import OptimumError, OptionError, UnavailableError
from optimum_serve.bundling import command, licences
from optimum_serve.bundling.command import bundle
from optimum_serve.bundling.wheels import WheelRequest, _needed, without_missing
from wheels import wheel

ROOT = Path(__file__).resolve().parents[3]
OURS = {"optimum-core": "core", "optimum-ort": "plugins/optimum-ort", "optimum-serve": "plugins/optimum-serve"}
TEXT = "Apache License"
#: Asks the server of the bundle, inside of its namespace, and ends it.
_ASK = """
import subprocess, sys, time, urllib.request, json
server = subprocess.Popen(["./start.sh", "--port", "8765", "--quiet"])
request = urllib.request.Request("http://127.0.0.1:8765/embed", b'{"inputs": "w5 w9"}')
for _ in range(3000):
    try:
        print(len(json.load(urllib.request.urlopen(request))[0]))
        break
    except OSError:
        time.sleep(0.2)
server.terminate()
server.wait()
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of our packages, as they are here."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in OURS.values():
        shutil.copy(wheel(tmp_path_factory, ROOT / project), folder)
    return folder


@pytest.fixture(scope="module")
def stand_ins(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same wheels, and empty ones of all other packages, by their names and versions."""
    folder = shutil.copytree(wheels, tmp_path_factory.mktemp("stand-ins") / "wheels")
    for name, one in _needed(list(OURS)):
        if name not in OURS:
            _write_empty(folder, name.replace("-", "_"), one.version)
    return folder


def _write_empty(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    contents = {
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE.txt": f"{TEXT} of {name}",
    }
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        lines = []
        for path, text in contents.items():
            wheel.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(text.encode())}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")


def _bundle(*arguments: object) -> str:
    entry = tomllib.loads((ROOT / "plugins/optimum-serve/pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert entry["optimum.commands"]["bundle"] == f"{bundle.__module__}:{bundle.__name__}"
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(bundle)
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@cache
def _without_network() -> Sequence[str]:
    """Return the command that runs another without a network, where this system allows it."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return []
    return [*command, "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"] if allowed else []


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    whole |= {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", **environment}
    return subprocess.run(
        [*_without_network(), *command], cwd=cwd, env=whole, capture_output=True, text=True, check=False
    )


def test_it_installs_without_an_index_lists_licences_and_finds_what_was_altered(
    artifacts: Path, stand_ins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "models.tar"
    names = [str(artifacts / "encoder"), f"kind={artifacts / 'classifier'}"]
    assert "Wrote" in _bundle(*names, out, "--wheels", stand_ins, "--offline")
    assert [path.name for path in out.parent.iterdir()] == ["models.tar"]
    with tarfile.open(out) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    root = tmp_path / "there" / "models"
    listed = (root / "LICENCES.txt").read_text()
    assert "optimum-serve 0.1.0: Apache-2.0" in listed and ": MIT" in listed and "  kind: " in listed
    assert TEXT in next((root / "licences").glob("numpy-*/LICENSE.txt")).read_text()
    done = _run("./start.sh", "--install-only", cwd=root)
    assert done.returncode == 0, done.stderr
    again = _run("./start.sh", "--install-only", cwd=root)  # installs nothing
    assert again.returncode == 0
    code = "from importlib.metadata import version; print(version('optimum-serve'), version('optimum-ort'))"
    assert _run("env/bin/python", "-c", code, cwd=root).stdout.split() == ["0.1.0", "0.1.0"]
    assert "serve encoder=models/encoder kind=models/kind" in (root / "start.sh").read_text()
    (root / "models" / "kind" / "optimum.json").write_text("{}")
    moved = root.rename(tmp_path / "elsewhere")
    refused = _run("./start.sh", "--install-only", cwd=moved)
    assert refused.returncode != 0 and "altered: models/kind/optimum.json" in refused.stderr


def test_a_model_of_another_package_is_read_where_the_bundle_is_made(stand_ins: Path, tmp_path: Path) -> None:
    """It is read with torch or onnx, which are not where it is unpacked."""
    import onnx
    from onnx import TensorProto, helper

    (theirs := tmp_path / "theirs").mkdir()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), theirs / "model.onnx")
    told = _bundle(theirs, tmp_path / "made.tar", "--wheels", stand_ins, "--offline")
    assert "made/start.sh" in told
    with tarfile.open(tmp_path / "made.tar") as archive:
        assert {"made/models/theirs/optimum.json", "made/start.sh"} <= set(archive.getnames())


def test_what_a_backend_generates_with_comes_along_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(generates: bool) -> Any:
        return SimpleNamespace(backend="openvino", can_generate=lambda: generates, manifest=SimpleNamespace(inputs=()))

    assert command._packages(model(generates=True)) == ["optimum-openvino[genai]"]
    assert command._packages(model(generates=False)) == ["optimum-openvino"]
    assert not capsys.readouterr().out
    monkeypatch.setattr(command, "_lacking", lambda package, extra: ["openvino-genai"])
    assert command._packages(model(generates=True)) == ["optimum-openvino"]
    assert "openvino-genai is not installed here" in capsys.readouterr().out


def test_what_a_backend_generates_with_is_left_out_where_that_machine_has_no_wheel(tmp_path: Path) -> None:
    told: list[str] = []
    packages = ["optimum-openvino[genai]", "optimum-serve[pictures]"]
    request = WheelRequest(packages=packages, platforms=["any"], folders=[tmp_path], offline=True)
    assert without_missing(request, told.append).packages == ["optimum-openvino", "optimum-serve[pictures]"]
    assert len(told) == 1 and "no wheel of openvino-genai" in told[0]
    here = WheelRequest(packages=packages)
    assert without_missing(here, told.append) is here and len(told) == 1


def test_another_python_is_told_which_is_needed(artifacts: Path, stand_ins: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.tar.gz"
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.13"
    platform = ["--python", other, "--platform", "any"]
    _bundle(artifacts / "encoder", out, "--wheels", stand_ins, "--offline", *platform)
    with tarfile.open(out) as archive:
        archive.extractall(tmp_path, filter="data")
    done = _run("./start.sh", cwd=tmp_path / "other")
    assert done.returncode == 1 and f"is for Python {other}" in done.stderr


def test_what_cannot_be_bundled_is_told(artifacts: Path, wheels: Path, tmp_path: Path) -> None:
    encoder, out = artifacts / "encoder", tmp_path / "a.tar"
    for arguments, kind, said in (
        ([encoder, tmp_path / "a.zip"], OptionError, "end it with"),
        ([encoder, f"encoder={encoder}", out], OptionError, "two models are named 'encoder'"),
        ([f"..={encoder}", out], OptionError, "cannot be named '..'"),
        ([encoder, out, "--python", "3.10"], OptionError, "no platform was named"),
        ([encoder, out, "--wheels", wheels, "--offline"], UnavailableError, r"no wheel of .* others is in .*--wheels"),
        ([tmp_path, out], OptimumError, "optimum.json"),
    ):
        with pytest.raises(kind, match=said):
            _bundle(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_offline_the_command_is_told_that_fetches_what_is_missing(
    artifacts: Path, stand_ins: Path, tmp_path: Path
) -> None:
    some = shutil.copytree(stand_ins, tmp_path / "some")
    (lacking,) = some.glob("msgspec-*.whl")
    lacking.rename(some / "msgspec-0.1-py3-none-any.whl")  # of another version than the installed one
    with pytest.raises(UnavailableError, match=r"no wheel of msgspec==[\d.]+ is in") as told:
        _bundle(artifacts / "encoder", tmp_path / "a.tar", "--wheels", some, "--offline")
    assert re.search(r"pip download .*-d wheels msgspec==[\d.]+;", told.value.remedy)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License: BSD", "BSD"),
        ("License: A long text\n of many lines\nClassifier: License :: OSI Approved :: Apache Software License", None),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("Summary: nothing", licences.NOT_STATED),
    ],
)
def test_licences_as_old_and_new_metadata_state_them(metadata: str, said: str | None, tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", f"Name: a\nVersion: 1\n{metadata}\n")
        archive.writestr("a/vendored.dist-info/METADATA", "Name: b\nVersion: 2\n")
    assert licences.of_wheel(wheel).said == (said or "Apache Software License")


@pytest.mark.skipif("OPTIMUM_TEST_INDEX" not in os.environ, reason="it asks a package index for 200 MB")
def test_it_answers_without_a_network(artifacts: Path, wheels: Path, tmp_path: Path) -> None:
    _bundle(artifacts / "encoder", tmp_path / "real.tar", "--wheels", wheels)
    with tarfile.open(tmp_path / "real.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    done = _run(sys.executable, "-c", _ASK, cwd=tmp_path / "real")
    assert done.stdout.split() == ["32"], done.stderr
