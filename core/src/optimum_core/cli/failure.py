"""What `-v` turns on, and how the command shows an error."""

from __future__ import annotations

import logging
import sys
import traceback

from optimum_core.errors import OptimumError

_LOG = logging.getLogger("optimum_core")


def be_verbose() -> None:
    """Show the package's own log, from DEBUG up, on stderr. Asked twice, it is shown once."""
    if is_verbose():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.DEBUG)


def is_verbose() -> bool:
    """Whether `-v` was given."""
    return _LOG.level == logging.DEBUG


def show_error(error: OptimumError) -> None:
    """Who failed, why, and what to do, on stderr; the traceback only when `-v` was given."""
    from optimum_core.cli.console import make_console, words

    if is_verbose():
        traceback.print_exception(error)
    console = make_console(sys.stderr)
    # Never wrapped: a message is searched for and pasted.
    console.print(
        words(console, ("error: ", "bold red"), (error.who, "bold"), f": {error.why}\n  ", ("What to do: ", "bold")),
        words(console, error.remedy),
        soft_wrap=True,
        sep="",
    )
