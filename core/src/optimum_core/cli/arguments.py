"""Arguments that several commands take, and the reading of typed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from optimum_core.cli.failure import be_verbose

T = TypeVar("T")


def _on_verbose(value: bool) -> None:
    if value:
        be_verbose()


_VERBOSE_HELP = "Show the log of optimum_core, and tracebacks of errors."
Verbose = Annotated[bool, typer.Option("--verbose", "-v", "--debug", callback=_on_verbose, help=_VERBOSE_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to stdout.")]


def typed(parse: Callable[[Any], T], value: Any, option: str) -> T:
    """Return a parsed argument.

    Raises:
        typer.BadParameter: it is invalid: wrong usage, exit code 2.
    """
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
