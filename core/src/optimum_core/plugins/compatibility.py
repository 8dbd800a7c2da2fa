"""Whether a plugin was made for this version of the contract: the range that its own metadata states.

The contract (hooks, types, and the other public modules) has the version of optimum-core. A plugin states the versions
that it was made for as any dependency is stated, `optimum-core>=0.1,<0.2`. Installers keep to that; where one was told
not to, the plugin is set aside before it is imported, instead of failing later in a place that says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from optimum_core.packages import versions
from optimum_core.plugins.discovery import Record

CORE = "optimum-core"
_NEEDS_CORE = re.compile(r"optimum[-_.]core(?![\w.-])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """A plugin that was made for other versions of the contract."""

    why: str
    remedy: str


@cache
def core_version() -> str:
    """Return the version of optimum-core, and so of the contract; "" where it has no metadata."""
    return versions([CORE]).get(CORE, "")


def mismatch(record: Record, version: str | None = None) -> Mismatch | None:
    """Return why a plugin's stated range excludes this version of optimum-core, and the remedy; None: it does not.

    A plugin without metadata, or without that dependency, is taken as it is.

    Args:
        version: of optimum-core; None: the one that is installed.
    """
    version, stated = version or core_version(), _stated_range(record)
    if not version or not stated or _allows(stated, version):
        return None
    why = f"it was made for {CORE}{stated}, and this is {version}"
    if _is_newer(stated, version):
        return Mismatch(why=why, remedy=f"upgrade {CORE}: pip install '{CORE}{stated}'")
    owner = record.distribution
    return Mismatch(why=why, remedy=f"upgrade {owner}: pip install -U {owner}; or pip install '{CORE}{stated}'")


def too_new(cause: BaseException) -> str:
    """Return the remedy for an error of a plugin that uses what this version of the contract lacks; else "".

    That is a name that a module of optimum_core does not have, or a field that one of its dataclasses does not have.
    """
    if isinstance(cause, ImportError) and str(cause.name or "").partition(".")[0] == "optimum_core":
        return f"upgrade {CORE}, if the plugin was made for a newer one than {core_version()}"
    if isinstance(cause, TypeError) and (
        found := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword", str(cause))
    ):
        from optimum_core import types

        if found[1] in types.__all__:
            return f"upgrade {CORE}, if the plugin was made for a newer one than {core_version()}"
    return ""


def _stated_range(record: Record) -> str:
    """Return the range of versions, such as ">=0.1,<0.2", that the distribution's metadata requires; "" for none."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in _core_requirements(record):
        try:
            needed = Requirement(text)
        except InvalidRequirement:  # the installer's to judge
            continue
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            return ",".join(sorted(str(needed.specifier).split(","), reverse=True))
    return ""


def _core_requirements(record: Record) -> Iterable[str]:
    distribution = record.entry_point.dist if record.entry_point is not None else None
    if distribution is None:
        return ()
    try:
        return [text for text in distribution.requires or () if _NEEDS_CORE.match(text)]
    except Exception:  # noqa: BLE001  (metadata can fail in any way: then the plugin is taken as it is)
        return ()


def _allows(stated: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(stated).contains(version, prereleases=True)


def _is_newer(stated: str, version: str) -> bool:
    """Whether the range begins above a version."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    least = [Version(item.version.removesuffix(".*")) for item in SpecifierSet(stated) if item.operator in _FROM]
    return any(bound > Version(version) for bound in least)


_FROM = (">=", ">", "==", "~=")
