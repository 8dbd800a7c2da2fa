"""An artifact with anything changed in it is refused before anything of it runs."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core import load
from optimum_core.errors import ArtifactError
from optimum_core.plugins import PluginManager

_DIGEST = b'{\n  "digest": "sha256:'


@pytest.fixture(scope="module")
def saved(tiny: Callable[[str], Any], to_ort: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("saved") / "out"
    to_ort(tiny("bert")).save_pretrained(place)
    return place


@pytest.fixture
def artifact(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; nothing of it may come as far as a session."""
    shutil.copytree(saved, tmp_path / "out")

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("it came as far as being opened")

    monkeypatch.setattr(PluginManager, "load_session", opened)
    return tmp_path / "out"


def _names(place: Path) -> list[str]:
    """Return the files of an artifact; its card is for people, who may edit it."""
    found = (path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return sorted(name for name in found if name != "README.md")


def _refused(place: Path, said: str | None = None) -> None:
    with pytest.raises(ArtifactError, match=said) as raised:
        load(place)
    assert raised.value.remedy


def test_untouched_it_loads(saved: Path) -> None:
    fast = load(saved)
    assert fast(input_ids=np.array([[5, 6, 7]])).logits.shape == (1, 5)
    assert {"optimum.json", "config.json"} < set(_names(saved))


def test_a_flipped_bit_anywhere(artifact: Path) -> None:
    for name in _names(artifact):
        raw = (artifact / name).read_bytes()
        spots = {0, 1, len(raw) // 3, len(raw) // 2, len(raw) - 2, len(raw) - 1} | set(range(7, len(raw), 4099))
        for spot in sorted(spots):
            spoiled = bytearray(raw)
            spoiled[spot] ^= 0x01
            (artifact / name).write_bytes(spoiled)
            _refused(artifact, "optimum.json" if name == "optimum.json" else name)
        (artifact / name).write_bytes(raw)


def test_cut_short_emptied_or_gone(artifact: Path) -> None:
    for name in _names(artifact):
        raw = (artifact / name).read_bytes()
        for kept in (0, 1, len(raw) // 2, len(raw.rstrip()) - 1):
            (artifact / name).write_bytes(raw[:kept])
            _refused(artifact, name)
        (artifact / name).write_bytes(raw + b"\n")
        if name == "config.json":  # it says the same
            with pytest.raises(AssertionError, match="came as far as being opened"):
                load(artifact)
        else:
            _refused(artifact, name)
        (artifact / name).unlink()
        _refused(artifact, name)
        (artifact / name).write_bytes(raw)


def test_files_exchanged(artifact: Path) -> None:
    names = [name for name in _names(artifact) if name != "optimum.json"]
    first, second = artifact / names[0], artifact / names[1]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    _refused(artifact)


def _forge(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest with a digest that is right, as an attacker would."""
    tree = json.loads((place / "optimum.json").read_bytes())
    change(tree)
    tree["digest"] = f"sha256:{'0' * 64}"
    raw = (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()
    assert raw.startswith(_DIGEST)
    digest = hashlib.sha256(raw).hexdigest().encode()
    (place / "optimum.json").write_bytes(_DIGEST + digest + raw[len(_DIGEST) + 64 :])


def test_a_forged_manifest_without_a_change_is_the_manifest(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (artifact / "optimum.json").read_bytes()
    _forge(artifact, lambda tree: None)
    assert (artifact / "optimum.json").read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "a\\..\\x", "con", "a//b", ""])
def test_names_that_leave_the_directory(name: str, artifact: Path) -> None:
    (artifact.parent / "x").write_bytes(b"outside")
    entry = {"sha256": hashlib.sha256(b"outside").hexdigest(), "size": 7}

    def change(tree: dict[str, Any]) -> None:
        tree["files"][name] = entry
        tree["model_files"] = [name]

    _forge(artifact, change)
    _refused(artifact, "file name")


def test_a_link_that_leads_out(artifact: Path) -> None:
    config = artifact / "config.json"
    outside = artifact.parent / "config.json"
    outside.write_bytes(config.read_bytes())
    config.unlink()
    try:
        config.symlink_to(outside)
    except OSError:  # not every user may make links on Windows: then there is none to follow either
        return
    _refused(artifact, "leads out of the directory")


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('it ran')",)


def test_nothing_that_comes_along_is_run(saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(saved, place)
    for name in ("sitecustomize.py", "optimum_core.py", "modeling.py", "__init__.py"):
        (place / name).write_text("raise SystemExit('it ran')")
    for name in ("pytorch_model.bin", "weights.npz", "model.pkl"):
        (place / name).write_bytes(pickle.dumps(_Bomb()))
    fast = load(place)
    assert fast(input_ids=np.array([[5, 6, 7]])).logits.shape == (1, 5)
    assert fast.config.num_labels == 5


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "transformers.modeling_outputs.NoSuchOutput",
        "transformers.no_such_module.Output",
        "transformers.configuration_utils.PreTrainedConfig",
    ],
)
def test_an_output_class_cannot_name_code(path: str, saved: Path, tmp_path: Path) -> None:
    """A manifest may name a class of answers: what is none of transformers' makes plain answers, and is not called."""
    import torch

    place = tmp_path / "out"
    shutil.copytree(saved, place)
    _forge(place, lambda tree: tree["model"]["structure"].update(name=path))
    answer = load(place)(input_ids=torch.tensor([[5, 6, 7]]))
    assert list(answer) == ["logits"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.update(schema_version=99), "newer optimum-core"),
        (lambda tree: tree.update(schema_version="1"), "schema_version"),
        (lambda tree: tree.update(model_files=["absent.onnx"]), "absent.onnx"),
        (lambda tree: tree.update(inputs=3), "does not fit"),
        (lambda tree: tree.pop("outputs"), "does not fit"),
    ],
)
def test_manifests_that_make_no_sense(change: Callable[[dict[str, Any]], None], said: str, artifact: Path) -> None:
    _forge(artifact, change)
    _refused(artifact, said)
