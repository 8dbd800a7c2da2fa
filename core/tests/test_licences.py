"""The licence that a model's card states stays with it: in the manifest, and on the card of what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimum_core import accelerate, load
from optimum_core.models.sources.companions import licence_of


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A", {"license": "apache-2.0"}),
        (
            "---\nlicense: other  # see there\nlicense_name: 'a b'\nlicense_link: https://a.b/L\n---\n",
            {"license": "other", "license_name": "a b", "license_link": "https://a.b/L"},
        ),
        ("---\nlicense:\n---\n", {}),
        ("\ufeff---\nlicense:\n- mit\n- apache-2.0\ntags:\n- a\n---\n", {"license": "mit, apache-2.0"}),
        ("---\nlicense: [mit, 'apache-2.0']\n---\n", {"license": "mit, apache-2.0"}),
        ("---\nlicense: >-\n  other\nlicense_name: a, b\n---\n", {"license": "other", "license_name": "a, b"}),
        ("---\nlicense: other\nlicense_link: LICENSE\n---\n", {"license": "other"}),
        ("---\nlicense: mit\nno end", {}),
        ("# A\n---\nlicense: mit\n---\n", {}),
        ("", {}),
    ],
)
def test_what_a_header_states(header: str, found: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(header, encoding="utf-8")
    assert licence_of(tmp_path) == found
    assert licence_of(tmp_path / "none") == {} and licence_of(None) == {}


@pytest.mark.parametrize("in_memory", [False, True])
def test_it_is_kept_by_what_is_saved(tiny: Callable[[str], Any], in_memory: bool, tmp_path: Path) -> None:
    model = tiny("bert")
    model.save_pretrained(tmp_path / "m")
    header = "---\nlicense: other\nlicense_name: 'Ours: 1'\ntags: []\n---\n# A model\n"
    (tmp_path / "m" / "README.md").write_text(header, encoding="utf-8")
    given = type(model).from_pretrained(tmp_path / "m") if in_memory else tmp_path / "m"
    with accelerate(given, target="ort", budget=0, cache_dir=tmp_path / "cache") as fast:
        fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as again:
        again.save_pretrained(tmp_path / "copy")
    for place in ("out", "copy"):
        page = (tmp_path / place / "README.md").read_text("utf-8")
        read = yaml.safe_load(page.split("---\n")[1])
        assert (read["license"], read["license_name"]) == ("other", "Ours: 1")


def test_a_changed_licence_is_that_of_what_is_saved_next(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "m")
    for header, found in (("mit", "mit"), ("[apache-2.0, mit]", ["apache-2.0", "mit"])):
        (tmp_path / "m" / "README.md").write_text(f"---\nlicense: {header}\n---\n", encoding="utf-8")
        with accelerate(tmp_path / "m", target="ort", budget=0, cache_dir=tmp_path / "cache") as fast:
            fast.save_pretrained(tmp_path / header)
        page = (tmp_path / header / "README.md").read_text("utf-8")
        assert yaml.safe_load(page.split("---\n")[1])["license"] == found
