"""`optimum-core accept` takes what is read beside a graph, and refuses what the graph has built in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimum_core import accelerate, load
from optimum_core.cli.app import app
from optimum_core.errors import ArtifactError
from optimum_core.runtime.accepting import accept
from sentence_directories import NORMALIZE, pooling, write_directory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder."""
    folder = tmp_path_factory.mktemp("accept")
    source = write_directory(folder / "m", pooling("mean"), NORMALIZE, lengths={"max_seq_length": 32})
    with accelerate(source, target="ort", budget=0, cache_dir=folder / "cache") as fast:
        fast.save_pretrained(folder / "out")
    return folder / "out"


def _changed(made: Path, place: Path, name: str, changes: Mapping[str, Any]) -> Path:
    file = Path(shutil.copytree(made, place)) / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "cls"}, "1_Pooling/config.json' differs, and what it holds"),
        ("config.json", {"hidden_size": 3}, "hidden_size=3, and the graph gives vectors of 32"),
    ],
)  # fmt: skip
def test_what_the_graph_has_built_in_is_refused(
    name: str, changes: dict[str, Any], told: str, made: Path, tmp_path: Path
) -> None:
    place = _changed(made, tmp_path / "out", name, changes)
    before = (place / "optimum.json").read_bytes()
    with pytest.raises(ArtifactError, match=rf"{told}(.|\n)*accelerate the model with that change"):
        accept(place)
    assert (place / "optimum.json").read_bytes() == before
    with pytest.raises(ArtifactError, match="differs"):
        load(place)


def test_a_list_of_modules_is_built_in_too(made: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(made, tmp_path / "out"))
    listed = json.loads((place / "modules.json").read_text())
    (place / "modules.json").write_text(json.dumps(listed[:-1]), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"'modules\.json' differs"):
        accept(place)


def test_a_width_that_hidden_states_are_projected_to_is_no_change(made: Path, tmp_path: Path) -> None:
    """As of OPT-350m: hidden_size=1024, and word_embed_proj_dim=512, which last_hidden_state has."""
    place = _changed(made, tmp_path / "out", "config.json", {"hidden_size": 48, "word_embed_proj_dim": 32})
    assert accept(place) == ("config.json",)


def test_what_is_read_beside_it_is_taken(made: Path, tmp_path: Path) -> None:
    place = _changed(made, tmp_path / "out", "sentence_bert_config.json", {"max_seq_length": 5})
    described = json.loads((place / "config.json").read_text()) | {"id2label": {"0": "yes"}}
    (place / "config.json").write_text(json.dumps(described), encoding="utf-8")
    told = CliRunner().invoke(app, ["accept", str(place)]).stdout
    assert "config.json, sentence_bert_config.json" in told and "the graph stays" in told.replace("\n", " ")
    assert load(place).max_seq_length == 5
