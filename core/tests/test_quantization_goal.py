"""Values of `quantize=`: words, presets, recipes in files and in code all become one goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from optimum_core.errors import OptionError, SourceError
from optimum_core.models import pretrained
from optimum_core.quantization_goal import FAMILIES, QuantizationGoal, read_goal
from optimum_core.types import QuantizeConfig
from optimum_core.types.presets import PRESETS, preset
from optimum_core.types.quantization import Scheme

RECIPE = """
scheme: static
weights: int8
calibration: percentile
percentile: 99.99
exclude: [classifier]
objective: latency
metric: f1
max_drop: 1%
"""
CONFIG = QuantizeConfig(
    calibration="percentile",
    percentile=99.99,
    exclude=("classifier",),
    objective="latency",
    metric="f1",
    max_drop="1%",
)


def _goal(value: Any, *, calibrated: bool = True) -> QuantizationGoal:
    goal = read_goal(value, calibrated=calibrated)
    assert goal is not None
    return goal


def test_nothing_said_is_no_goal() -> None:
    assert read_goal(None, calibrated=True) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_format_leaves_the_scheme_open(family: str) -> None:
    goal = _goal(family)
    assert goal.schemes == tuple(Scheme(method, family) for method in ("static", "dynamic", "weight-only"))
    assert (goal.config, goal.weights) == (None, family)


@pytest.mark.parametrize("name", ["static-int8", "dynamic-int8", "weight-only-int4", "weight-only-nf4", "static-fp8"])
def test_a_scheme_is_its_plain_configuration(name: str) -> None:
    assert _goal(name) == QuantizationGoal(schemes=(Scheme.parse(name),), config=QuantizeConfig.named(name))
    assert str(_goal(name).schemes[0]) == name


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tensorrt"])
def test_calibration_decides_what_a_preset_means(name: str) -> None:
    assert _goal(name).config == preset(name)
    assert _goal(name, calibrated=False).config == preset(name, static=False)
    assert _goal(name, calibrated=False).schemes == (Scheme("dynamic", "int8"),)


def test_a_preset_that_must_calibrate_says_so() -> None:
    with pytest.raises(OptionError, match="TensorRT has no dynamic quantization"):
        read_goal("tensorrt", calibrated=False)


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_recipe_is_the_same_in_a_file_a_mapping_and_an_object(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"recipe{ending}"
    file.write_text(RECIPE, encoding="utf-8")
    whole = QuantizationGoal(schemes=(Scheme("static", "int8"),), config=CONFIG)
    assert _goal(file) == _goal(str(file)) == _goal(CONFIG) == _goal(CONFIG.to_dict()) == whole
    assert CONFIG.recipe == QuantizeConfig(calibration="percentile", percentile=99.99, exclude=("classifier",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scheme: [static", "it is no YAML"),
        ("just words", "no keys and values"),
        ("", "no keys and values"),
        ("scheem: static", r"unknown key 'scheem'(.|\n)*did you mean 'scheme'"),
        ("3: static", r"unknown key 3"),
        ("scheme: dynamic\ncalibration: entropy", "calibration: it says nothing to scheme 'dynamic'"),
        ("max_drop: lots", "max_drop"),
        ("metric: bleu", "accuracy, f1"),
    ],
)
def test_a_bad_recipe_is_refused_by_its_name(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=rf"recipe '.*recipe\.yaml'(.|\n)*{said}"):
        read_goal(file, calibrated=True)


def test_bytes_that_are_no_text_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_bytes(b"\xff\xfe\x00scheme")
    with pytest.raises(OptionError, match="it is no YAML"):
        read_goal(tmp_path / "recipe.yml", calibrated=True)


@pytest.mark.parametrize("name", ["absent.yaml", "./here/absent.yaml", "/no/such/absent.yaml", "a/b/c/absent.yaml"])
def test_a_recipe_that_is_not_there(name: str) -> None:
    with pytest.raises(OptionError, match=r"no such file(.|\n)*owner/name/file\.yaml"):
        read_goal(name, calibrated=True)
    with pytest.raises(OptionError, match="no such file"):
        read_goal(Path("/no/such/absent.json"), calibrated=True)


def test_a_recipe_in_a_hub_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"file 'recipe\.yaml' of 'owner/name'(.|\n)*HF_HUB_OFFLINE"):
        read_goal("owner/name/recipe.yaml", calibrated=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> Path:
        asked.append((repository, name))
        return tmp_path / name

    monkeypatch.setattr(pretrained, "download_file", download)
    assert _goal("owner/name/recipe.yaml").config == CONFIG
    assert asked == [("owner/name", "recipe.yaml")]


@pytest.mark.parametrize(
    "value", ["int7", "", "avx", 8, True, ["int8"], "static", "staticint8", "recipe.txt", object()]
)
def test_anything_else_is_refused_with_what_may_be_said(value: Any) -> None:
    with pytest.raises(OptionError, match="quantize"):
        read_goal(value, calibrated=True)


def test_the_refusal_lists_what_is_known() -> None:
    with pytest.raises(OptionError, match=r"'int7' is unknown(.|\n)*int8, int4(.|\n)*avx512_vnni(.|\n)*QuantizeConfig"):
        read_goal("int7", calibrated=True)
