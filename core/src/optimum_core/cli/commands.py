"""Verbs of `optimum-core` that other distributions bring, by entry points of the group `optimum.commands`.

An entry point names a function with typer's annotations; its name is the verb. It is imported when the verb is run:
help lists it from metadata alone.
"""

from __future__ import annotations

from typing import Any

import typer
from importlib_metadata import EntryPoint, entry_points
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from optimum_core.errors import PluginError

GROUP = "optimum.commands"


def installed() -> dict[str, EntryPoint]:
    """Return the entry points of installed verbs by name; of one that is listed twice, the first.

    Raises:
        PluginError: two distributions claim a name.
    """
    found: dict[str, EntryPoint] = {}
    for item in sorted(entry_points(group=GROUP), key=lambda item: (item.name, _distribution(item))):
        other = found.setdefault(item.name, item)
        if (_distribution(other), other.value) != (_distribution(item), item.value):
            raise PluginError(
                f"command {item.name!r}",
                f"{_distribution(other)} and {_distribution(item)} both bring it",
                "uninstall one of them",
            )
    return found


def _distribution(item: EntryPoint) -> str:
    return str(item.dist.name) if item.dist is not None else item.value


class CommandGroup(TyperGroup):
    """The group of all verbs: those of core, which nothing can replace, and the installed ones."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all verbs."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in installed() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb, imported if it is an installed one; None: it is unknown.

        Raises:
            PluginError: the verb cannot be imported, or is no function.
        """
        own = super().get_command(ctx, cmd_name)
        item = None if own is not None else installed().get(cmd_name)
        return own if item is None else _imported(item, self.context_settings)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs, without importing the installed ones."""
        own = dict(self.commands)
        stubs = {name: _stub(name, item) for name, item in installed().items() if name not in own}
        self.commands = {**own, **stubs}
        try:
            super().format_commands(ctx, formatter)
        finally:
            self.commands = own


def _stub(name: str, item: EntryPoint) -> TyperCommand:
    return TyperCommand(name, callback=None, help=f"Brought by {_distribution(item)}.")


def _imported(item: EntryPoint, settings: Any) -> Any:
    who, remedy = f"command {item.name!r} ({_distribution(item)})", f"reinstall or upgrade {_distribution(item)}"
    try:
        function = item.load()
    except Exception as error:
        raise PluginError(who, f"it cannot be imported: {type(error).__name__}: {error}", remedy) from error
    if not callable(function):
        raise PluginError(who, f"{item.value} is a {type(function).__name__} and no function", remedy)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(item.name, context_settings=settings)(function)
    return get_command(app)
