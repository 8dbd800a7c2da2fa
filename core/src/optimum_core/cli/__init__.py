"""The command `optimum-core`.

Importing this package imports nothing slow: typer is imported by `main`, rich by the first page that is shown.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command: exit code 0, 1 for an `OptimumError`, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM,
    129 after SIGHUP."""
    from optimum_core.errors import OptimumError
    from optimum_core.termination import raise_on_termination

    terminated = raise_on_termination()
    try:
        from optimum_core.cli.app import app

        app(prog_name="optimum-core")
    except SystemExit as done:  # typer turns every interruption into one
        number = terminated()
        sys.exit(128 + number if number else done.code)
    except OptimumError as error:
        from optimum_core.cli.failure import show_error

        show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + (terminated() or signal.SIGINT))
