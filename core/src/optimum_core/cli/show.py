"""Text pages on a rich `Console`: hardware, plugins, reports, and progress.

All of them are readable at 80 columns, without colour, and on ASCII terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.console import Console

from optimum_core.cli.console import BAD, GOOD, NONE, OFF, Part, make_console, put, put_rows
from optimum_core.hardware import describe
from optimum_core.plugins import PluginInfo, Status
from optimum_core.types import Hardware, Limitation, Offer, Support, Transform

if TYPE_CHECKING:
    from optimum_core.cli.progress import ProgressLine
    from optimum_core.cli.report import show_artifact, show_report

__all__ = ["ProgressLine", "make_console", "show_artifact", "show_hardware", "show_plugins", "show_report"]

#: Imported at first use: the page of the plugins has to be fast, and needs none of these.
_HOMES = {
    "ProgressLine": "optimum_core.cli.progress",
    "show_artifact": "optimum_core.cli.report",
    "show_report": "optimum_core.cli.report",
}
_INDENT = 4
_MARKS = {
    Status.READY: (GOOD, "green"),
    Status.BROKEN: (BAD, "red"),
    Status.DUPLICATE: (BAD, "red"),
    Status.DISABLED: (OFF, "dim"),
}
_LOADS = {"device": "runs {}", "graph": "evaluates {}, to check it", "none": "{} is run elsewhere"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def show_hardware(console: Console, hardware: Hardware) -> None:
    """Print the machine, one row per kind of fact."""
    put_rows(console, describe(hardware))


def show_plugins(console: Console, infos: Sequence[PluginInfo], supports: Mapping[str, Support]) -> None:
    """Print every plugin that was found: its offers on this machine, or its limitations and their remedies.

    Args:
        infos: `PluginManager.infos()`, read after `supports`, since a probe that fails makes its plugin broken.
        supports: `PluginManager.supports(hardware)`.
    """
    if not infos:
        put(console, "No backend was found, not even a built-in one. Reinstall optimum-core.")
        return
    widest = max(len(info.name) for info in infos)
    for number, info in enumerate(infos):
        if number:
            console.print()
        support = supports.get(info.name) if info.status is Status.READY else None
        _show_head(console, info, support, widest)
        if info.error:
            _show_error(console, info)
        if info.imports:
            put(
                console,
                (f"imports {', '.join(info.imports)} when it is loaded, which slows every start", "yellow"),
                indent=_INDENT,
            )
        if support is not None:
            _show_support(console, support)


def _show_head(console: Console, info: PluginInfo, support: Support | None, widest: int) -> None:
    idle = support is not None and not support.offers
    mark, style = (NONE, "yellow") if idle else _MARKS[info.status]
    origin = f"{info.distribution} {info.version}".strip() or "registered in this process"
    parts: list[Part] = [(f"{mark} ", style), (f"{info.name:<{widest}}", "bold"), f"  {origin}  "]
    if info.status is not Status.READY:
        parts.append((info.status.value, style))
    elif idle:
        parts.append(("nothing on this machine", style))
    elif support is None:
        parts.append((f"no backend: it observes {', '.join(info.hooks)}", "dim"))
    put(console, *parts)


def _show_error(console: Console, info: PluginInfo) -> None:
    put(console, info.why, indent=_INDENT)
    put(console, "→ ", (info.remedy, "bold"), indent=_INDENT)


def _show_support(console: Console, support: Support) -> None:
    put_rows(console, [(offer.device, " · ".join(_abilities(offer))) for offer in support.offers], indent=_INDENT)
    if support.offers and support.versions:
        versions = ", ".join(f"{name} {version}" for name, version in support.versions.items())
        put(console, (f"with {versions}", "dim"), indent=_INDENT)
    for (reason, remedy), limits in _alike(support.limitations).items():
        what = ", ".join(item.what for item in limits)
        if support.offers:
            put(console, (f"cannot {what}: {reason} → {remedy}", "dim"), indent=_INDENT)
        else:
            put(console, f"cannot {what}: {reason}", indent=_INDENT)
            put(console, "→ ", (remedy, "bold"), indent=_INDENT)
    if support.is_silent:
        put(console, "its probe offers nothing here, and gives no reason", indent=_INDENT)
        put(console, "→ ", ("report it to its authors", "bold"), indent=_INDENT)


def _alike(limitations: Iterable[Limitation]) -> dict[tuple[str, str], list[Limitation]]:
    """Group limitations by reason and remedy: without a GPU, everything that needs one has the same."""
    groups: dict[tuple[str, str], list[Limitation]] = {}
    for item in limitations:
        groups.setdefault((item.reason, item.remedy), []).append(item)
    return groups


def _abilities(offer: Offer) -> list[str]:
    found = [
        _ability("exports", offer.exports, offer.routes),
        *_transforms("optimizes", offer.optimizes, offer.levels),
        *_transforms("quantizes", offer.quantizes, offer.schemes),
        _loading(offer),
        _ability("in", offer.precisions, ()) if offer.loads else "",
    ]
    return [text for text in found if text]


def _loading(offer: Offer) -> str:
    if not offer.loads:
        return ""
    return _LOADS[offer.proof].format(", ".join(offer.loads)) + _in_brackets(["as it is"] if offer.live else [])


def _ability(verb: str, what: Sequence[str], ways: Sequence[str]) -> str:
    return f"{verb} {', '.join(what)}{_in_brackets(ways)}" if what else ""


def _transforms(verb: str, transforms: Sequence[Transform], ways: Sequence[str]) -> list[str]:
    texts = [item.takes if item.takes == item.gives else f"{item.takes} → {item.gives}" for item in transforms]
    return [f"{verb} {', '.join(texts)}{_in_brackets(ways)}"] if texts else []


def _in_brackets(items: Sequence[str]) -> str:
    return f" ({', '.join(items)})" if items else ""
