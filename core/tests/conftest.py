"""Fixtures of core's tests. Nothing heavy is imported before a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from plugin_site import Site


@pytest.fixture(scope="session")
def described(tiny: Callable[[str], Any]) -> Callable[[str], tuple[Any, Any]]:
    """A model and its signature, made once: not to be changed."""
    from optimum_core.models.signatures.signature import describe

    @cache
    def make(kind: str) -> tuple[Any, Any]:
        module = tiny(kind)
        return module, describe(module, name=kind)

    return make


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A folder that is on the path, with no distribution in it yet."""
    from optimum_core.plugins import DISABLED_ENV, STRICT_ENV

    monkeypatch.delenv(DISABLED_ENV, raising=False)
    monkeypatch.delenv(STRICT_ENV, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)
