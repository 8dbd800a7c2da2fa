"""Plugins and their abilities on this machine, and their JSON form. Fast to import, for `optimum-core plugins`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import redirect_stdout
from typing import Any

from optimum_core.hardware import detect
from optimum_core.plugins import PluginInfo, manager
from optimum_core.types import Support


def survey_plugins() -> tuple[tuple[PluginInfo, ...], dict[str, Support]]:
    """Return all plugins, and the support of each ready one on this machine.

    What plugins print on import or in a probe goes to stderr: stdout is the page, or JSON that programs read.

    Raises:
        PluginError: one is broken and `OPTIMUM_STRICT_PLUGINS` is set.
    """
    with redirect_stdout(sys.stderr):
        supports = manager().supports(detect())
        return manager().infos(), supports  # in this order: a probe that fails makes its plugin broken


def plugins_data(infos: Sequence[PluginInfo], supports: Mapping[str, Support]) -> list[dict[str, Any]]:
    """Return one object per plugin: the fields of `PluginInfo` and `Support`, the latter empty unless it is ready."""
    unknown = Support()
    return [
        {**fields_of(info), **_data(supports.get(info.name, unknown) if info.status == "ready" else unknown)}
        for info in infos
    ]


def _data(support: Support) -> dict[str, Any]:
    """Return a probe's result without its functions, which are no data."""
    found = {name: value for name, value in fields_of(support).items() if name != "check_options"}
    stated = ("name", "format", "layout")
    return {**found, "foreign": [{name: getattr(item, name) for name in stated} for item in support.foreign]}


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def json_text(tree: Any) -> str:
    """Return JSON of dataclasses, mappings, sequences, sets and scalars; in ASCII, which every terminal can show.

    Any other value, which can only come from a plugin, is written as its text.
    """
    import json

    return json.dumps(tree, indent=2, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value) if isinstance(value, Set) else str(value)
