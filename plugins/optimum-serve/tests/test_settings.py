"""Settings from flags, environment and a file; wrong ones are told by name, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from optimum_core.errors import OptionError
from optimum_serve.settings import ModelSettings, Settings, read_settings

DOCS = Path(__file__).parents[3] / "docs" / "serving.md"


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("models: [a, {source: b/c, name: d}]\nport: 1\nmax_queue: 2\ntimeout: 3\n")
    environment = {"OPTIMUM_SERVE_PORT": "4", "OPTIMUM_SERVE_API_KEYS": "one, two", "PATH": "unrelated"}
    found = read_settings({"timeout": 5.0, "host": None}, file, environment)
    assert (found.port, found.max_queue, found.timeout, found.host) == (4, 2, 5.0, "127.0.0.1")
    assert [model.label for model in found.models] == ["a", "d"] and found.api_keys == ("one", "two")


def test_a_name_before_the_source_is_read_wherever_models_are_stated(tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("models: [chat=/models/a]\n")
    in_environment = {"OPTIMUM_SERVE_MODELS": "chat=/models/a"}
    for flags, path, environment in (
        ({}, file, {}),
        ({}, None, in_environment),
        ({"models": ["chat=/models/a"]}, None, {}),
    ):
        (model,) = read_settings(flags, path, environment).models
        assert (model.label, model.source) == ("chat", "/models/a")


@pytest.mark.parametrize(
    ("flags", "text", "environment", "said"),
    [
        ({}, "", {}, "there is no model"),
        ({"models": ["a", "b/a"]}, "", {}, "two models are named 'a'"),
        ({}, "models: [a, {source: b, aliases: [a]}]", {}, "two models are named 'a'"),
        ({}, "models: ['']", {}, "cannot be named ''"),
        ({}, "models: ['=a']", {}, "its name is empty"),
        ({}, "models: [{source: a, objective: fast}]", {}, r"fast(.|\n)*objective"),
        ({"models": ["a"]}, "port: 1\nport: 2", {}, "'port' is there twice"),
        ({}, "models: [{source: a, source: b}]", {}, "'source' is there twice"),
        ({"models": ["a"]}, "cors_origins: [a.example]", {}, "cors_origins"),
        ({"models": ["a"]}, "cors_origins: ['https://a.example/']", {}, "cors_origins"),
        ({"models": ["a"]}, "traces: localhost:4318", {}, "traces"),
        ({"models": ["a"]}, "host: ''", {}, "host"),
        ({"models": ["a"]}, "prot: 5", {}, "prot"),
        ({}, "modles: [a]", {}, "there is no setting 'modles'"),
        ({}, "models: a", {}, "models is no list"),
        ({"models": ["a"]}, "- 5", {}, "it holds a list"),
        ({"models": ["a"]}, "port: [", {}, "the file cannot be read"),
        ({"models": ["a"], "port": 70000}, "", {}, r"<= 65535(.|\n)*port"),
        ({"models": ["a"], "timeout": 0}, "", {}, r"> 0(.|\n)*timeout"),
        ({"models": ["a"]}, "", {"OPTIMUM_SERVE_PROT": "5"}, "OPTIMUM_SERVE_PROT(.|\n)*there is no such setting"),
        ({"models": ["a"]}, "", {"OPTIMUM_SERVE_PORT": "many"}, "port"),
        ({"models": ["a"]}, "", {"OPTIMUM_SERVE_API_KEYS": ""}, "OPTIMUM_SERVE_API_KEYS(.|\n)*set, and empty"),
        ({"models": ["a"], "api_keys": [""]}, "", {}, "a key is empty"),
        ({"models": ["a"], "api_keys": ["s\u00e9cret"]}, "", {}, "other characters than ASCII"),
        ({"models": [{"source": "a", "name": "b/c"}]}, "", {}, "cannot be named 'b/c'"),
    ],
)
def test_wrong_settings(
    flags: dict[str, Any], text: str, environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    with pytest.raises(OptionError, match=said):
        read_settings(flags, file, environment)


def test_the_page_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", DOCS.read_text("utf-8").partition("| setting |")[2], re.MULTILINE)
    stated = dict(zip(_names(row for row, _ in rows), _defaults(rows), strict=True))
    own = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    assert set(stated) == set(own)
    for name, said in stated.items():
        if said not in ("required", "none"):
            assert said == str(own[name]).lower().removesuffix(".0"), name
    assert ModelSettings(source="a/b").label == "b"


def _names(rows: Any) -> list[str]:
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def _defaults(rows: list[tuple[str, str]]) -> list[str]:
    found = []
    for names, defaults in rows:
        count = len(re.findall("`", names)) // 2
        found += [part.strip() for part in defaults.split(",")] if count > 1 else [defaults.strip()]
    return found
