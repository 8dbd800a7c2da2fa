"""The pages of the site: each file is one, each is reachable, and links between files lead to pages."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SITE = Path(__file__).parents[1] / "docs" / "site"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", _SITE / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _in_navigation(items: Any) -> Iterator[str]:
    for item in items:
        for target in item.values():
            yield from [target] if isinstance(target, str) else _in_navigation(target)


def test_the_navigation_has_every_page_and_no_other(site: ModuleType, tmp_path: Path) -> None:
    site.lay_out(tmp_path)
    written = {str(page.relative_to(tmp_path / "pages")) for page in (tmp_path / "pages").rglob("*.md")}
    linked = set(_in_navigation(tomllib.loads((_SITE / "zensical.toml").read_text("utf-8"))["project"]["nav"]))
    by_index = {page for page in written if page.startswith(("decisions/0", "packages/"))}
    assert linked <= written
    assert written - linked == by_index


def test_a_link_between_files_leads_to_the_page(site: ModuleType) -> None:
    known = site.pages()
    text = "See [the list](docs/concepts.md#bounds), `[x](docs/none.md)` and [source](core/src/optimum_core/api.py)."
    found = site.relinked(text, "README.md", known)
    assert found == "See [the list](concepts.md#bounds), `[x](docs/none.md)` and source."


def test_a_link_to_nothing_is_an_error_that_names_both(site: ModuleType) -> None:
    with pytest.raises(site.BrokenLinkError, match=r"docs/concepts\.md links to none\.md, which does not exist"):
        site.relinked("[there](none.md)", "docs/concepts.md", site.pages())
