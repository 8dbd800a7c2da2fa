"""The plugins and what they can do here, gathered, and their JSON form. Light, since `optimum-core plugins` is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

from optimum_core.hardware import detect
from optimum_core.plugins import PluginInfo, manager
from optimum_core.types import Support


def survey_plugins() -> tuple[tuple[PluginInfo, ...], dict[str, Support]]:
    """Every plugin, and what each ready one can do on this machine.

    Raises:
        PluginError: one is broken and `OPTIMUM_STRICT_PLUGINS` is set.
    """
    supports = manager().supports(detect())
    return manager().infos(), supports  # in this order: a probe that fails makes its plugin broken


def plugins_data(infos: Sequence[PluginInfo], supports: Mapping[str, Support]) -> list[dict[str, Any]]:
    """One object per plugin: the fields of `PluginInfo` and of `Support`, the latter empty unless it is ready."""
    unknown = Support()
    return [
        {**fields_of(info), **_data(supports.get(info.name, unknown) if info.status == "ready" else unknown)}
        for info in infos
    ]


def _data(support: Support) -> dict[str, Any]:
    """What a probe says; what it can be asked is no data."""
    return {name: value for name, value in fields_of(support).items() if name != "check_options"}


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def json_text(tree: Any) -> str:
    """JSON of dataclasses, mappings, sequences, sets and scalars; in ASCII, so that no terminal can refuse it.

    Anything else, which only a plugin can have put there, is written as its text.
    """
    import json

    return json.dumps(tree, indent=2, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value) if isinstance(value, Set) else str(value)
