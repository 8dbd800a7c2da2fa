"""The command `optimum-core`.

Importing this package imports nothing slow: typer is imported by `main`, rich by the first page that is shown.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command: exit code 0, 1 for an `OptimumError`, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    from optimum_core.errors import OptimumError
    from optimum_core.termination import raise_on_sigterm

    terminated = raise_on_sigterm()
    try:
        from optimum_core.cli.app import app

        app(prog_name="optimum-core")
    except SystemExit as done:  # typer turns every interruption into one
        sys.exit(143 if terminated() else done.code)
    except OptimumError as error:
        from optimum_core.cli.failure import show_error

        show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(143 if terminated() else 130)
