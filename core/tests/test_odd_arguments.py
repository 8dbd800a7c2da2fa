"""Arguments that are empty, blank, of another type, or paths that no system takes: each is named in an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import ArtifactError, OptionError, SourceError

BLANK = ("", " ", "\t\n")


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(x)
        return made


def _fast(**changes: Any) -> Any:
    given = {"sample_inputs": {"x": torch.ones(2, 4)}, "target": "torch", "verify": False, "budget": 0, **changes}
    return accelerate(Doubled().eval(), **given)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which holds a model's configuration, a file and links."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("path", [*BLANK, "a\0b"])
def test_no_path(place: Path, path: str) -> None:
    why = "NUL" if "\0" in path else "is empty"
    with pytest.raises(SourceError, match=why):
        accelerate(path)
    with pytest.raises(ArtifactError, match=why):
        load(path)
    with pytest.raises(ArtifactError, match=why):
        _fast().save_pretrained(path)
    assert sorted(item.name for item in place.iterdir()) == ["broken", "config.json", "file", "loop"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("broken", "a link to 'nowhere', which does not exist"),
        ("loop", "the system refuses this path"),
        ("x" * 300, "the system refuses this path"),
        ("~no-such-user/model", "the system refuses this path"),
        ("file", "it is a file"),
        ("file/", "it is a file"),
    ],
)
def test_paths_that_lead_nowhere(place: Path, path: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        accelerate(path)


@pytest.mark.parametrize("name", ["task", "precision", "objective", "level"])
@pytest.mark.parametrize("value", [*BLANK, [], ["fp32"], 5, {}])
def test_no_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name}: .* is no name"):
        _fast(**{name: value})


@pytest.mark.parametrize("target", [*BLANK, ":", "torch:", "torch:cpu:", ":cpu", None, []])
def test_no_target(target: Any) -> None:
    with pytest.raises(OptionError, match="target"):
        _fast(target=target)


def test_a_cache_in_a_file_or_at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="'file' is a file"):
        _fast(cache_dir="file")
    with pytest.raises(OptionError, match="no path"):
        _fast(cache_dir=" ")
    monkeypatch.setenv("HOME", str(place / "home"))
    _fast(cache_dir="~/cache", target="onnx").save_pretrained("~/saved")
    assert (place / "home" / "cache").is_dir()
    assert (place / "home" / "saved" / "optimum.json").is_file()
    assert not (place / "~").exists()


def test_on_the_meta_device() -> None:
    module, x = Doubled().eval(), torch.ones(2, 4)
    with torch.device("meta"):
        fast = accelerate(module, sample_inputs={"x": x}, target="torch", budget=0)
        with pytest.raises(OptionError, match=r"'x'.*on the meta device: it has a shape and no values"):
            accelerate(module, sample_inputs={"x": torch.ones(2, 4)}, target="torch", budget=0)
        with pytest.raises(SourceError, match="weight is on the meta device"):
            accelerate(Doubled(), sample_inputs={"x": x}, target="torch", budget=0)
    torch.testing.assert_close(fast(x), module(x))
