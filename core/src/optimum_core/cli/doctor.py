"""The doctor page and the list of the cache, as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from optimum_core.cache import CacheEntry
from optimum_core.cli.console import put, put_items, put_rows
from optimum_core.cli.diagnosis import Diagnosis
from optimum_core.cli.show import show_hardware, show_plugins
from optimum_core.cli.values import age_words, count, size_words


def show_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print a diagnosis, in sections."""
    versions = [("optimum-core", diagnosis.optimum_core), ("Python", diagnosis.python), ("OS", diagnosis.system)]
    put_rows(console, versions)
    _section(console, "Hardware")
    show_hardware(console, diagnosis.hardware)
    _section(console, "Plugins")
    show_plugins(console, diagnosis.plugins, diagnosis.supports)
    _section(console, "Versions")
    put_items(console, [f"{name} {version}" for name, version in diagnosis.versions.items()])
    _section(console, "Environment")
    put_rows(console, list(diagnosis.environment.items()) or [("no variable of ours is set", "")])
    _section(console, "Cache")
    put_rows(console, [("Place", diagnosis.cache), ("Size", _cache_words(diagnosis))])


def show_cache(console: Console, root: Path, entries: Sequence[CacheEntry]) -> None:
    """Print every entry, the largest first, and the total."""
    for entry in sorted(entries, key=lambda item: (-item.size, item.kind, item.key)):
        put(console, (f"{size_words(entry.size):>10}  ", "bold"), entry.description or entry.key)
        put(console, (f"{entry.kind} {entry.key[:12]}, used {age_words(idle_time(entry))}", "dim"), indent=12)
    if entries:
        console.print()
    total = size_words(sum(entry.size for entry in entries))
    put(console, (f"{total:>10}  ", "bold"), f"{count(len(entries), 'entry', 'entries')} in {root}")


def idle_time(entry: CacheEntry) -> timedelta:
    """Return the time since the entry was last used."""
    return datetime.now(UTC) - entry.last_used


def _cache_words(diagnosis: Diagnosis) -> str:
    if diagnosis.cache_size is None:
        return diagnosis.cache_problem
    return f"{size_words(diagnosis.cache_size)}, {count(diagnosis.cache_entries or 0, 'entry', 'entries')}"


def _section(console: Console, title: str) -> None:
    console.print()
    put(console, (title, "bold cyan"))
