"""Progress display on stderr: a spinner while a stage runs, and a line that stays when it has ended."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from optimum_core.cli.console import BAD, GOOD, Part, make_console, put, put_line, words
from optimum_core.cli.values import seconds_words
from optimum_core.types import Event

_STAGE_WIDTH = max(map(len, ("reference", "describe", "optimize")))
_SECONDS_WIDTH = 10
_DETAIL = 2 + _STAGE_WIDTH + _SECONDS_WIDTH + 2
_REFRESHES_PER_SECOND = 8
#: Stages in which the spinner does not move: a drawing thread would disturb the measurement.
_QUIET = frozenset({"measure"})


@dataclass(slots=True, eq=False)
class _Running:
    event: Event
    since: float = field(default_factory=time.monotonic)


class ProgressLine:
    """Display of the events of `accelerate(progress=...)`, from any thread. As a context manager it removes the spinner
    on exit, also after an error.

    Args:
        stream: the output stream; None: the current stderr, since a later replacement of it only captures noise.
        live: whether to show a spinner; None: if the stream is a terminal that supports it. Without it, each stage gets
            a line when it begins and one when it ends, so that the log of a killed run shows where it was.
    """

    def __init__(self, stream: TextIO | None = None, *, live: bool | None = None) -> None:
        self._console = make_console(sys.stderr if stream is None else stream)
        # Checked on the stream itself: with FORCE_COLOR rich treats any stream as a terminal, even a log.
        terminal = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._spins = terminal if live is None else live
        self._lock = threading.RLock()
        self._running: list[_Running] = []
        self._spinner: Live | None = None
        self._dots = Spinner("line" if self._console.options.ascii_only else "dots", style="cyan")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            self._halt()
            if event.seconds is None and not event.problem:
                self._begin(event)
            else:
                self._end(event)
            if self._spins and self._running:
                self._spin()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the spinner and restore the cursor; later events start a new one."""
        with self._lock:
            self._running.clear()
            self._halt()

    def _begin(self, event: Event) -> None:
        self._running.append(_Running(event))
        if not self._spins:
            self._put(("… ", "dim"), event, _took(None))

    def _end(self, event: Event) -> None:
        """Remove the stage and those that began within it and never ended, such as a wait."""
        same = [index for index, item in enumerate(self._running) if _key(item.event) == _key(event)]
        if same:
            del self._running[same[-1] :]
        self._put((f"{BAD} ", "red") if event.problem else (f"{GOOD} ", "green"), event, _took(event.seconds))
        if event.problem:
            put(self._console, (event.problem, "red"), indent=_DETAIL)

    def _put(self, mark: Part, event: Event, took: Part) -> None:
        line = words(self._console, mark, *_title(event, took), event.detail)
        if self._spins:
            put_line(self._console, line, indent=_DETAIL)
        else:  # lines of a log are not wrapped, so that they can be searched
            self._console.print(line, soft_wrap=True)

    def _spin(self) -> None:
        # Rich must not redirect the standard streams: core does so itself, and the two would undo each other.
        self._spinner = Live(
            get_renderable=self._frame,
            console=self._console,
            auto_refresh=self._running[-1].event.stage not in _QUIET,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._spinner.start(refresh=True)

    def _halt(self) -> None:
        spinner, self._spinner = self._spinner, None
        if spinner is not None:
            spinner.stop()

    def _frame(self) -> Any:
        """Return the frame for the refreshing thread to draw; the list may have been emptied in between."""
        running = self._running[-1:]
        if not running:
            return Text()
        event = running[0].event
        took = _took(None if event.stage in _QUIET else time.monotonic() - running[0].since)
        line = words(self._console, *_title(event, took), event.detail)
        line.truncate(max(1, self._console.width - 3), overflow="ellipsis")
        self._dots.update(text=line)
        return self._dots


def _title(event: Event, took: Part) -> tuple[Part, ...]:
    return (f"{event.stage:<{_STAGE_WIDTH}}", "bold"), took, "  "


def _took(seconds: float | None) -> Part:
    return f"{seconds_words(seconds) if seconds is not None else '':>{_SECONDS_WIDTH}}", "dim"


def _key(event: Event) -> tuple[str, str]:
    return event.stage, event.detail
