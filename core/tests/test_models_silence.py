"""Prints and warnings of libraries are held back while they work, for their own thread alone."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest

from optimum_core.models.pretrained import quiet
from optimum_core.models.silence import silence


def _noise() -> None:
    sys.stdout.write("a graph of a hundred lines\n")
    sys.stderr.write("and what went wrong\n")
    warnings.warn("something", stacklevel=1)


@pytest.mark.parametrize("manager", [silence, quiet])
def test_nothing_is_printed_within(manager: object, capsys: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    with manager():  # type: ignore[operator]
        _noise()
        with silence():
            _noise()
        _noise()
    assert (sys.stdout, sys.stderr) == streams
    sys.stdout.write("after\n")
    assert capsys.readouterr() == ("after\n", "")


def test_loggers_of_a_named_library_are_mute_within_and_as_before_after(caplog: pytest.LogCaptureFixture) -> None:
    own, other = logging.getLogger("noisy_library.part"), logging.getLogger("noisy_library_too")
    own.setLevel(logging.INFO)
    other.setLevel(logging.INFO)
    with silence("noisy_library"):
        own.error("dropped")
        other.warning("shown")
    own.info("shown after")
    assert [record.message for record in caplog.records] == ["shown", "shown after"]
    assert own.level == logging.INFO


def test_an_error_leaves_the_streams_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), silence():
        _noise()
        raise ValueError("no")
    sys.stdout.write("after\n")
    assert capsys.readouterr() == ("after\n", "")


def test_other_threads_go_on_printing(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        thread = threading.Thread(target=lambda: sys.stdout.write("the program's own\n"))
        thread.start()
        thread.join()
        _noise()
    assert capsys.readouterr() == ("the program's own\n", "")


def test_threads_that_overlap_leave_the_streams_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    streams, inside, leave = (sys.stdout, sys.stderr), threading.Event(), threading.Event()

    def hold() -> None:
        with silence():
            inside.set()
            leave.wait(60)
            sys.stdout.write("held back\n")

    thread = threading.Thread(target=hold)
    with silence():
        thread.start()
        assert inside.wait(60)
    sys.stdout.write("seen\n")
    leave.set()
    thread.join()
    sys.stdout.write("seen\n")
    assert capsys.readouterr().out == "seen\nseen\n"
    assert (sys.stdout, sys.stderr) == streams


def test_everything_shows_at_debug(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "optimum_core"), pytest.warns(UserWarning, match="something"), silence():
        _noise()
    assert capsys.readouterr() == ("a graph of a hundred lines\n", "and what went wrong\n")
