"""Files written into an artifact's directory later: the same tokenizer leaves it whole, another one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from optimum_core import accelerate, artifact, load
from optimum_core.artifact.integrity import check_file, describe
from optimum_core.artifact.meaning import GENERATION, meaning, relatives
from optimum_core.cli.app import app
from optimum_core.errors import ArtifactError
from optimum_core.models.sources.resaved_files import meanings_of
from optimum_core.runtime.eager_saving import with_settings
from optimum_core.testing.decoders import decoder

TEXTS = ["w5 w6 w7", "w8"]


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], Any], tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and a tokenizer, with settings as transformers 4 wrote them."""
    place = tmp_path_factory.mktemp("models") / "bert"
    tiny("bert").save_pretrained(place)
    shutil.copyfile(tokenizer_file / "tokenizer.json", place / "tokenizer.json")
    stated = json.loads((tokenizer_file / "tokenizer_config.json").read_text())
    stated |= {"clean_up_tokenization_spaces": True, "added_tokens_decoder": {}, "chat_template": "{{ messages }}"}
    stated["unk_token"] = "[UNK]"
    (place / "tokenizer_config.json").write_text(json.dumps(stated))
    (place / "special_tokens_map.json").write_text(json.dumps({"pad_token": stated["pad_token"]}))
    (place / "generation_config.json").write_text(json.dumps({"max_new_tokens": 5, "transformers_version": "4.40.0"}))
    return place


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "out"
    with accelerate(model, target="ort", level="all", budget=0, cache_dir=tmp_path_factory.mktemp("cache")) as fast:
        fast.save_pretrained(place)
    return place


@pytest.fixture
def saved(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def _tokenizer(model: Path, **changes: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, **changes)


def _change(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree, indent=4))


def test_a_tutorials_tokenizer_leaves_it_whole(model: Path, saved: Path, tmp_path: Path) -> None:
    """It has padded and cut, and has another side and token of padding, of which nothing here makes use."""
    from transformers import AutoConfig, GenerationConfig

    tokenizer = _tokenizer(model, padding_side="left")
    with load(saved) as fast:
        want = fast.map(TEXTS)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer(TEXTS, padding="max_length", max_length=3, truncation=True)
    tokenizer.save_pretrained(saved)
    AutoConfig.from_pretrained(model).save_pretrained(saved)
    GenerationConfig.from_pretrained(model).save_pretrained(saved)
    assert (saved / "chat_template.jinja").is_file()  # which was in a file of another name
    with load(saved) as fast:
        for name, values in fast.map(TEXTS).items():
            np.testing.assert_array_equal(values, want[name])
        fast.save_pretrained(tmp_path / "again")
    load(tmp_path / "again").close()
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_files_of_git_and_of_the_hub_and_a_readme_by_hand_are_strangers(saved: Path) -> None:
    for name in ("README.md", ".gitattributes", ".git/HEAD", ".cache/huggingface/download/x.lock", "notes.txt"):
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        (saved / name).write_text("mine")
    with load(saved) as fast:
        fast.save_pretrained(saved)  # in the place of the older one
    assert (saved / "README.md").read_text() == "mine" and (saved / ".git/HEAD").read_text() == "mine"
    load(saved).close()


def test_line_endings_of_windows_change_nothing(saved: Path, tmp_path: Path) -> None:
    for file in saved.rglob("*"):
        if file.suffix in (".json", ".md", ".txt"):
            file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    with load(saved) as fast:
        fast.save_pretrained(tmp_path / "again")
    load(tmp_path / "again").close()


def _swap(tree: dict[str, Any]) -> None:
    words = tree["model"]["vocab"]
    words["w5"], words["w6"] = words["w6"], words["w5"]


@pytest.mark.parametrize("name", ["model.bin", "model.json", "model.xml"])
def test_weights_are_no_text_whatever_their_bytes(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(np.random.default_rng(0).integers(1, 255, 1 << 15, np.uint8).tobytes())
    entry = describe(file)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for meanings in (None, ()):
        with pytest.raises(ArtifactError, match="differs in size"):
            check_file(file, name, entry, "artifact", deep=True, meanings=meanings)


_CUTS = {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
OTHERS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "two words are swapped": ("tokenizer.json", _swap),
    "a word is added": ("tokenizer.json", lambda tree: tree["model"]["vocab"].update(unheard=500)),
    "texts are cut at the other end": ("tokenizer.json", lambda tree: tree.update(truncation=_CUTS)),
    "texts are cut elsewhere": ("tokenizer_config.json", lambda tree: tree.update(model_max_length=2)),
    "the chat is written otherwise": ("tokenizer_config.json", lambda tree: tree.update(chat_template="{{ 1 }}")),
    "more is written": ("generation_config.json", lambda tree: tree.update(max_new_tokens=6)),
    "classes have other names": ("config.json", lambda tree: tree.update(id2label=dict(enumerate("abcde")))),
}  # fmt: skip


def test_the_end_that_is_cut_counts_where_nothing_else_states_it(tmp_path: Path) -> None:
    def said(**cut: Any) -> str:
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {}, "truncation": {**_CUTS, **cut}}))
        return meaning(tmp_path / "tokenizer.json")

    assert said() == said(max_length=9) != said(direction="Right")
    (tmp_path / "tokenizer_config.json").write_text('{"truncation_side": "left"}')
    assert said() == said(direction="Right")


@pytest.mark.parametrize("what", OTHERS)
def test_what_says_something_else_is_refused_until_it_is_accepted(saved: Path, what: str) -> None:
    name, change = OTHERS[what]
    _change(saved / name, change)  # and its size, so that a look at sizes alone sees it too
    for verify_files in (True, False):
        with pytest.raises(ArtifactError, match=rf"{name}' differs(.|\n)*optimum-core accept"):
            load(saved, verify_files=verify_files)
    answer = CliRunner().invoke(app, ["accept", str(saved)])
    assert answer.exit_code == 0 and name in answer.stdout
    load(saved).close()
    assert "Nothing differs" in CliRunner().invoke(app, ["accept", str(saved)]).stdout


def test_a_file_that_would_change_the_tokenizer_is_no_stranger(saved: Path) -> None:
    (saved / "chat_template.jinja").write_text("{{ 1 }}")
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja' was put beside"):
        load(saved)
    assert artifact.accept(saved) == ("chat_template.jinja",)
    load(saved).close()


def test_files_of_a_tokenizer_that_nothing_reads_are_strangers(tmp_path: Path) -> None:
    """Words are read where there is no `tokenizer.json`, special tokens where the settings do not state them."""
    words, tokens = ("merges.txt", "vocab.json", "vocab.txt"), ("added_tokens.json", "special_tokens_map.json")
    for name in (*words, *tokens):
        (tmp_path / name).write_text('{"unk_token": "w5"}')
    for settings, names in (("{}", tokens), ('{"added_tokens_decoder": {}}', ())):
        (tmp_path / "tokenizer_config.json").write_text(settings)
        refused = set(relatives(["tokenizer.json", "tokenizer_config.json"], tmp_path)) & {*words, *tokens}
        assert refused == set(names)
        assert set(relatives(["tokenizer_config.json"], tmp_path)) >= {*words, *tokens}


def test_a_model_without_a_tokenizer_takes_one(tiny: Callable[[str], Any], model: Path, tmp_path: Path) -> None:
    with accelerate(tiny("bert"), target="ort", level="all", budget=0, cache_dir=tmp_path / "cache") as fast:
        fast.save_pretrained(tmp_path / "out")
    _tokenizer(model).save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as fast:
        assert len(fast.map(TEXTS)[fast.manifest.outputs[0].name]) == len(TEXTS)


def test_what_the_model_computes_by_is_never_accepted(saved: Path) -> None:
    file = saved / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    for attempt in (load, artifact.accept):
        with pytest.raises(ArtifactError, match=r"model\.onnx' differs"):
            attempt(saved)


@pytest.mark.parametrize("content", ["{", '{"cache_implementation": "nonsense"}'])
def test_generation_settings_that_cannot_be_read_stop_no_encoder(content: str, model: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(model, tmp_path / "model"))
    (place / "generation_config.json").write_text(content)
    with accelerate(place, target="ort", level="basic", budget=0, cache_dir=tmp_path / "cache") as fast:
        fast.save_pretrained(tmp_path / "out")
    load(tmp_path / "out").close()
    assert (tmp_path / "out" / "generation_config.json").read_text() == content


def test_changed_generation_settings_are_saved(saved: Path, tmp_path: Path) -> None:
    with load(saved) as fast:
        assert fast.generation_config.max_new_tokens == 5
        fast.generation_config.max_new_tokens = 7
        fast.save_pretrained(tmp_path / "again")
    with load(tmp_path / "again") as fast:
        assert fast.generation_config.max_new_tokens == 7


@pytest.fixture
def derived(saved: Path) -> tuple[Path, Any]:
    """An artifact without `generation_config.json`, and the settings that transformers derives for its model."""
    from transformers import AutoConfig, GenerationConfig

    manifest = artifact.load(saved)
    for name in (GENERATION, "optimum.json", "README.md"):
        (saved / name).unlink()
    config = AutoConfig.from_pretrained(saved)
    artifact.write(saved, replace(manifest, files={}, meanings=meanings_of(SimpleNamespace(config=config), saved)))
    return saved, GenerationConfig.from_model_config(config)


def test_generation_settings_that_were_derived_count_once_they_are_changed(derived: tuple[Path, Any]) -> None:
    place, settings = derived
    manifest = artifact.load(place)
    files = {name: place / name for name in manifest.files}
    with with_settings(manifest, settings, files) as (_, present):
        assert GENERATION not in present
    settings.max_new_tokens = 7
    with with_settings(manifest, settings, files) as (_, present):
        assert json.loads(present[GENERATION].read_text())["max_new_tokens"] == 7


def test_generation_settings_put_beside_a_model_without_any_are_no_strangers(derived: tuple[Path, Any]) -> None:
    place, settings = derived
    settings.save_pretrained(place)  # which say what its configuration does
    artifact.load(place)
    (place / GENERATION).write_text('{"do_sample": true}')
    with pytest.raises(ArtifactError, match=r"generation_config\.json' was put beside"):
        artifact.load(place)
    assert artifact.accept(place) == (GENERATION,)
    assert GENERATION in artifact.load(place).files


def test_changed_generation_settings_of_an_eager_model_are_saved(tmp_path: Path) -> None:
    decoder("gpt2").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / GENERATION).unlink()
    with accelerate(tmp_path / "model", target="torch", budget=0, cache_dir=tmp_path / "cache") as fast:
        fast.generation_config.max_new_tokens = 7
        fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as again:
        assert again.generation_config.max_new_tokens == 7
