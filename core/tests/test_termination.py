"""SIGTERM or SIGHUP in the middle of the work: nothing of ours stays, and the process ends as it would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")


def _run(
    body: str, temporary: Path, *, lines: int = 1, number: signal.Signals = signal.SIGTERM
) -> tuple[int, list[str]]:
    """Run a program until it has written that it works, send it a signal, and wait for its end."""
    usual = "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # it is ignored where `nohup` runs the tests
    program = "import os, signal, sys, time, tempfile\n" + usual + textwrap.dedent(body)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        assert list(temporary.iterdir())
        process.send_signal(number)
        told += process.stdout.read().splitlines()
        return process.wait(timeout=300), told


WORK = """
from optimum_core.termination import unwound_on_termination
{before}
with unwound_on_termination(), tempfile.TemporaryDirectory(prefix="optimum-") as folder:
    try:
        print("works", flush=True)
        time.sleep(600)
    except (Exception, SystemExit):
        print("swallowed", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_and_then_ends_the_process(tmp_path: Path, number: signal.Signals) -> None:
    assert _run(WORK.format(before=""), tmp_path, number=number) == (-number, ["works\n"])
    assert not list(tmp_path.iterdir())


def test_a_handler_of_the_program_decides(tmp_path: Path) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'mine'), os._exit(7)))"
    assert _run(WORK.format(before=before), tmp_path) == (7, ["works\n", "mine"])


def test_a_hangup_that_is_ignored_remains_so(tmp_path: Path) -> None:
    body = """
    from optimum_core.termination import unwound_on_termination
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with unwound_on_termination(), tempfile.TemporaryDirectory() as folder:
        os.kill(os.getpid(), signal.SIGHUP)
        print("works", flush=True)
        time.sleep(600)
    """
    assert _run(body, tmp_path) == (-signal.SIGTERM, ["works\n"])


def test_a_later_signal_ends_the_process_where_the_first_was_lost(tmp_path: Path) -> None:
    body = """
    from optimum_core import termination
    termination.GRACE = 1000
    with termination.unwound_on_termination(), tempfile.TemporaryDirectory() as folder:
        try:
            print("works", flush=True)
            time.sleep(600)
        except BaseException:
            os.kill(os.getpid(), signal.SIGTERM)
            print("lost", flush=True)
        termination.GRACE = 0
        os.kill(os.getpid(), signal.SIGTERM)
        print("never", flush=True)
    """
    assert _run(body, tmp_path) == (-signal.SIGTERM, ["works\n", "lost"])


def test_a_forked_child_unwinds_nothing_of_its_parent(tmp_path: Path) -> None:
    body = """
    from optimum_core.termination import unwound_on_termination
    with unwound_on_termination(), tempfile.TemporaryDirectory() as folder:
        forked, told = os.pipe()
        child = os.fork()
        if not child:
            os.write(told, b"!")
            time.sleep(600)
        os.read(forked, 1)  # what comes while it is being forked, Python forgets
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.isdir(folder), flush=True)
        time.sleep(600)
    """
    assert _run(body, tmp_path) == (-signal.SIGTERM, ["-15 True\n"])


def test_the_command_exits_with_143(tmp_path: Path) -> None:
    body = """
    import optimum_core.cli.backends as backends
    def wait():
        with tempfile.TemporaryDirectory():
            print("works", flush=True)
            time.sleep(600)
    backends.survey_plugins = wait
    from optimum_core.cli import main
    sys.argv = ["optimum-core", "plugins"]
    main()
    """
    assert _run(body, tmp_path) == (143, ["works\n"])
    assert not list(tmp_path.iterdir())


def test_outside_nothing_is_changed() -> None:
    from optimum_core.termination import unwound_on_termination

    before = signal.getsignal(signal.SIGTERM)
    with unwound_on_termination():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
