"""Verbose logging (`-v`) and the display of errors."""

from __future__ import annotations

import logging
import sys
import traceback

from optimum_core.errors import OptimumError

_LOG = logging.getLogger("optimum_core")


def be_verbose() -> None:
    """Show the package's own log, from DEBUG up, on stderr; a second call has no effect."""
    if is_verbose():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.DEBUG)


def is_verbose() -> bool:
    """Whether `-v` was passed."""
    return _LOG.level == logging.DEBUG


def show_error(error: OptimumError) -> None:
    """Print an error with its reason and remedy on stderr, and the traceback if `-v` was passed."""
    from optimum_core.cli.console import make_console, words

    if is_verbose():
        traceback.print_exception(error)
    console = make_console(sys.stderr)
    # Not wrapped, so that users can search for the message and paste it.
    console.print(
        words(console, ("error: ", "bold red"), (error.who, "bold"), f": {error.why}\n  ", ("What to do: ", "bold")),
        words(console, error.remedy),
        soft_wrap=True,
        sep="",
    )
