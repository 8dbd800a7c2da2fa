from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from optimum_core.backend import read_options
from optimum_core.errors import OptionError
from optimum_coreml.devices import OPTIONS
from optimum_coreml.options import CoreMlOptions


def test_defaults_and_values() -> None:
    assert read_options("coreml", CoreMlOptions, {}) == CoreMlOptions()
    given = read_options("coreml", CoreMlOptions, {"minimum_deployment_target": "macOS13", "class_labels": ["a", "b"]})
    assert (given.minimum_deployment_target, given.class_labels) == ("iOS16", ("a", "b"))


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'upper_bound'") as caught:
        read_options("coreml", CoreMlOptions, {"upper_bound": {}})
    assert caught.value.remedy == "did you mean 'upper_bounds'?"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("minimum_deployment_target", "iOS14", "iOS15"),
        ("upper_bounds", {"batch": 0}, "at least 1"),
        ("enumerated_shapes", [{}], "a list of mappings"),
        ("stateful", 1, "True or False"),
        ("context_length", True, "at least 1"),
        ("author", 3, "a text"),
        ("class_labels", "ab", "a list of texts"),
        ("palettize", 5, "1, 2, 3, 4, 6, 8"),
        ("prune", 1.0, "below 1"),
        ("weight_threshold", -1, "at least 0"),
        ("upper_bounds", None, "a mapping"),
    ],
)
def test_wrong_values_name_the_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' cannot be") as caught:
        read_options("coreml", CoreMlOptions, {name: value})
    assert allowed in caught.value.remedy


def test_every_option_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [item.name for item in fields(CoreMlOptions) if f"`{item.name}`" not in readme] == []


def test_the_probe_knows_every_option() -> None:
    assert tuple(item.name for item in fields(CoreMlOptions)) == OPTIONS
