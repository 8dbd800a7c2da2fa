"""Data of the doctor page, without private information, and its JSON form."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from optimum_core import __version__
from optimum_core.cache import Cache
from optimum_core.cli.backends import fields_of, plugins_data, survey_plugins
from optimum_core.errors import OptimumError
from optimum_core.hardware import detect
from optimum_core.plugins import PluginInfo
from optimum_core.types import Hardware, Support

T = TypeVar("T")

_PREFIX = "OPTIMUM_"
_OTHERS = ("HF_HUB_OFFLINE",)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL")
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The facts for a bug report. Contains no home directory, no user's name in a path, and no secret.

    Attributes:
        versions: versions of the distributions that core and the plugins require, if installed.
        environment: our environment variables that are set.
        cache_size: bytes; None where it cannot be read, for the reason in `cache_problem`.
    """

    optimum_core: str
    python: str
    system: str
    hardware: Hardware
    plugins: tuple[PluginInfo, ...]
    supports: Mapping[str, Support]
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    cache: str
    cache_entries: int | None
    cache_size: int | None
    cache_problem: str = ""


def diagnose() -> Diagnosis:
    """Collect the data of the doctor page."""
    infos, supports = survey_plugins()
    in_environment = " in a virtual environment" if sys.prefix != sys.base_prefix else ""
    python = f"{platform.python_implementation()} {platform.python_version()}{in_environment}"
    found = Diagnosis(
        optimum_core=__version__,
        python=python,
        system=platform.platform(),
        hardware=detect(),
        plugins=infos,
        supports=supports,
        versions=_versions(infos, supports),
        environment=_environment(),
        **_cache(),
    )
    return scrub(found)


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the doctor page as JSON values: its fields, with the plugins as in `plugins --json`."""
    tree = fields_of(diagnosis)
    del tree["supports"]
    return {**tree, "plugins": plugins_data(diagnosis.plugins, diagnosis.supports)}


def scrub(value: T) -> T:
    """Return the same value with "~" for the home directory in its texts and "<user>" for the user's name in paths."""
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home raises where there is none)
    return _scrub(value, _private(home)) if os.path.dirname(home) != home else value  # noqa: PTH120


def _private(home: str) -> list[tuple[re.Pattern[str], str]]:
    flags = re.IGNORECASE if os.name == "nt" else 0
    homes = sorted({home, os.path.realpath(home)}, key=len, reverse=True)
    name = re.escape(os.path.basename(home))  # noqa: PTH119
    return [
        *((re.compile(re.escape(place.rstrip("/\\")) + r"(?![\w.-])", flags), "~") for place in homes),
        (re.compile(rf"(?<=[/\\]){name}(?=[/\\]|$)", flags), "<user>"),
    ]


def _scrub(value: Any, private: Sequence[tuple[re.Pattern[str], str]]) -> Any:
    if type(value) is str:
        for pattern, instead in private:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {_scrub(key, private): _scrub(item, private) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_scrub(item, private) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _scrub(getattr(value, field.name), private) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _versions(infos: Iterable[PluginInfo], supports: Mapping[str, Support]) -> dict[str, str]:
    """Return the versions of the packages that this project's distributions require: no runtime is named here."""
    ours = sorted({info.distribution for info in infos if info.distribution} | {"optimum-core"})
    asked = {name for owner in ours for name in _requirements(owner)}
    named = {name for support in supports.values() for name in support.versions}
    canonical = {re.sub(r"[-_.]+", "-", name).lower() for name in (*asked, *named, *ours)}
    found = {name: _version(name) for name in sorted(canonical)}
    return {name: version for name, version in found.items() if version}


def _requirements(distribution: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(distribution) or []
    except (PackageNotFoundError, OSError, ValueError):  # a damaged plugin is reported among the plugins
        return []
    return [match[0] for line in lines if (match := _REQUIRED.match(line.strip()))]


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except (PackageNotFoundError, OSError, ValueError, KeyError):
        return None


def _environment() -> dict[str, str]:
    names = sorted(name for name in os.environ if name.startswith(_PREFIX) or name in _OTHERS)
    return {name: "(set, not shown)" if _SECRET.search(name.upper()) else os.environ[name] for name in names}


def _cache() -> dict[str, Any]:
    cache = Cache()
    facts: dict[str, Any] = {"cache": str(cache.root), "cache_entries": None, "cache_size": None}
    try:
        entries = cache.list()
    except OptimumError as error:  # the page is for finding problems, so this one is shown in it
        return {**facts, "cache_problem": str(error)}
    return {**facts, "cache_entries": len(entries), "cache_size": sum(entry.size for entry in entries)}
