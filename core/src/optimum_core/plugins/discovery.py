"""Discovery of installed plugins from metadata only, and the record of each."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from importlib_metadata import EntryPoint, distributions, entry_points

from optimum_core.errors import PluginError

GROUP = "optimum.backends"
DISABLED_ENV = "OPTIMUM_DISABLED_BACKENDS"
STRICT_ENV = "OPTIMUM_STRICT_PLUGINS"
#: The target that means any backend, so that no backend can have this name.
ANY = "auto"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
NAME_REMEDY = "choose one of lower-case letters, digits, '-', '_' and '.', such as 'acme'"


class Status(StrEnum):
    """The state of a plugin."""

    READY = "ready"
    BROKEN = "broken"
    DISABLED = "disabled"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginInfo:
    """A plugin that was found.

    Attributes:
        name: the backend's name: that of its entry point, or the one it was registered under.
        distribution: the distribution that ships it; empty for one registered in this process.
        version: of the distribution; empty where it has none.
        error: the whole message where it is broken or a duplicate; empty otherwise. `why` and `remedy` are parts of it.
        hooks: the hooks that it implements or wraps.
        imports: compiled packages that importing its entry module brought into this process: they slow every start,
            also where the backend is not used. Empty where they had been imported before.
    """

    name: str
    distribution: str
    version: str
    status: Status
    error: str = ""
    why: str = ""
    remedy: str = ""
    hooks: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True, eq=False)
class Record:
    """The manager's record of one plugin; `status` is None until it was loaded or rejected."""

    name: str
    distribution: str = ""
    version: str = ""
    entry_point: EntryPoint | None = None
    plugin: object = None
    status: Status | None = None
    error: PluginError | None = None
    hooks: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    answers: frozenset[str] = frozenset()

    def info(self) -> PluginInfo:
        """Return what others may know of it."""
        return PluginInfo(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            status=self.status or Status.READY,
            error=str(self.error or ""),
            why=self.error.why if self.error else "",
            remedy=self.error.remedy if self.error else "",
            hooks=self.hooks,
            imports=self.imports,
        )

    @property
    def origin(self) -> str:
        """The origin for error messages: the distribution with its version, or else the entry point."""
        if self.distribution:
            return f"{self.distribution} {self.version}".strip()
        return self.entry_point.value if self.entry_point else "registered in this process"

    @property
    def label(self) -> str:
        return f"backend {self.name!r} ({self.origin})"

    @property
    def identity(self) -> tuple[str, str, str]:
        """A key that is equal for one plugin that metadata lists twice (an editable install, a repeated path entry)."""
        distribution = re.sub(r"[-_.]+", "-", self.distribution).lower()
        return self.name, distribution, self.entry_point.value if self.entry_point else ""

    def refuse(self, why: str, remedy: str, cause: BaseException | None = None) -> PluginError:
        """Mark it permanently broken and return the error."""
        self.status, self.error = Status.BROKEN, PluginError(self.label, why, remedy)
        self.error.__cause__ = cause
        if cause is not None:
            import logging  # here, as a program in which nothing is broken does not need it

            logging.getLogger(__name__).debug("%s is set aside: %s", self.label, why, exc_info=cause)
        return self.error

    def remedy(self) -> str:
        """Return the remedy for a plugin whose own code fails."""
        repair = f"reinstall or upgrade {self.distribution}" if self.distribution else "repair it"
        return f"{repair}, or switch it off: {DISABLED_ENV}={self.name}"


def name_problem(name: object) -> str:
    """Return why a backend cannot have this name, because no target could name it; empty where it can."""
    if name == ANY:
        return f"is {ANY!r}, which as a target means any backend"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "cannot be written as a target ('backend:device')"
    return ""


def disabled_names() -> frozenset[str]:
    """Return the names in `OPTIMUM_DISABLED_BACKENDS`."""
    return frozenset(name.strip() for name in os.environ.get(DISABLED_ENV, "").split(",")) - {""}


def unknown_disabled(known: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names in `OPTIMUM_DISABLED_BACKENDS` that are none of these, each with one like it, or ""."""
    from difflib import get_close_matches

    unknown = sorted(disabled_names() - {*known})
    return [(name, next(iter(get_close_matches(name.lower(), known, n=1)), "")) for name in unknown]


def strict() -> bool:
    """Whether `OPTIMUM_STRICT_PLUGINS` is set, so that the first broken plugin raises."""
    return os.environ.get(STRICT_ENV, "0") not in ("", "0")


def discover(given: Iterable[EntryPoint] | None) -> list[Record]:
    """Return one record per plugin, in an order that does not depend on the order of `given`."""
    records, damaged = _scan() if given is None else ([_record(item) for item in given], [])
    # Of a plugin listed with several versions any is acceptable, provided it is always the same.
    unique = {item.identity: item for item in sorted(records, key=lambda item: (item.version, item.distribution))}
    claims: dict[str, list[Record]] = {}
    for _, record in sorted(unique.items()):
        claims.setdefault(record.name, []).append(record)
    disabled = disabled_names()
    for record in unique.values():
        if problem := name_problem(record.name):
            record.refuse(f"its name {problem}", f"{record.remedy()}; its author has to {NAME_REMEDY}")
    for name, rivals in claims.items():
        for record in rivals:
            if name in disabled:
                record.status = Status.DISABLED
            elif len(rivals) > 1 and record.error is None:
                record.status, record.error = Status.DUPLICATE, _conflict(rivals)
    return sorted([*unique.values(), *damaged], key=lambda item: item.identity)


def _conflict(rivals: list[Record]) -> PluginError:
    same = len({rival.origin for rival in rivals}) < len(rivals)
    claims = [f"{rival.origin} [{rival.identity[2]}]" if same else rival.origin for rival in rivals]
    owners = " or ".join(sorted({rival.distribution or rival.origin for rival in rivals}))
    return PluginError(f"backend {rivals[0].name!r}", f"is claimed by {' and '.join(claims)}", f"uninstall {owners}")


def _scan() -> tuple[list[Record], list[Record]]:
    """Return all installed plugins, and records of distributions whose entry points cannot be read."""
    try:
        return [_record(item) for item in entry_points(group=GROUP)], []
    except Exception:  # noqa: BLE001  (one unreadable file fails the scan of all: read each, and record the bad one)
        found: dict[tuple[str, str], EntryPoint] = {}
        damaged: list[Record] = []
        for distribution in distributions():
            try:
                for item in distribution.entry_points.select(group=GROUP):
                    found.setdefault((item.name, _about(distribution)[0]), item)
            except Exception as cause:  # noqa: BLE001  (recorded and reported if it may concern a backend)
                if _may_hold_backends(distribution):
                    name, version = _about(distribution)
                    record = Record(name=name, distribution=name, version=version)
                    record.refuse(f"its entry points cannot be read: {tell(cause)}", f"reinstall {name}", cause)
                    damaged.append(record)
        return [_record(item) for item in found.values()], damaged


def _may_hold_backends(distribution: Any) -> bool:
    """Whether an unreadable file of entry points names our group, or cannot be decoded, in which case it may."""
    try:
        return GROUP in (distribution.read_text("entry_points.txt") or "")
    except (OSError, ValueError):
        return True


def _record(entry_point: EntryPoint) -> Record:
    name, version = _about(entry_point.dist) if entry_point.dist is not None else ("", "")
    return Record(name=entry_point.name, distribution=name, version=version, entry_point=entry_point)


def _about(distribution: Any) -> tuple[str, str]:
    """Return name and version; "unknown" and "" for a distribution without readable metadata."""
    try:
        return distribution.name or "unknown", distribution.version or ""
    except Exception:  # noqa: BLE001  (metadata can fail in any way, and only a name for messages is lost)
        return "unknown", ""


def fresh(error: PluginError) -> PluginError:
    """Return a copy of an error to raise: one exception raised from several threads would collect their tracebacks."""
    again = PluginError(error.who, error.why, error.remedy)
    again.__cause__ = error.__cause__
    return again


def tell(cause: BaseException) -> str:
    """Return the type and message of an exception on one line."""
    return f"{type(cause).__name__}: {'; '.join(str(cause).splitlines())}".removesuffix(": ")


def show(value: object) -> str:
    """Return an object's type and name, or its shortened repr, for an error message."""
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name!r}" if isinstance(name, str) else reprlib.repr(value)
