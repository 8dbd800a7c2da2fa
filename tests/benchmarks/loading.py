"""Servers as processes, and load on them from another process: wrk."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psutil

from optimum_core.errors import SessionError, UnavailableError

PATH = "/v1/embeddings"
_SCRIPT = Path(__file__).parent / "children" / "load.lua"
_HOME = Path(sys.prefix) / "data" / "wrk"
#: Of Debian: wrk, and what it needs beyond a usual system.
_PACKAGES = ("wrk", "libluajit-5.1-2")
_START_SECONDS, _ANSWER_SECONDS = 240, 60
#: For what is left of a load. Some servers poll, and never rest.
_SETTLE_SECONDS = 8
#: Share of a core below which a server has nothing left to do.
_IDLE = 0.05
#: Share of the processor time below which a thread runs no model.
_SMALL = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The outcome of one load.

    Attributes:
        requests: that were answered, whatever the answer.
        refused: answers with 429.
        errors: other answers than 200 and 429, lost connections and timeouts.
        p50, p99: milliseconds.
        cpu: seconds of processor time of the server's processes.
        beside: those of them that are not the model's: of the first thread of each process, where its event loop runs,
            and of all threads that take less than a tenth of the whole.
    """

    requests: int
    seconds: float
    refused: int
    errors: int
    p50: float
    p99: float
    cpu: float
    beside: float


class Server:
    """A server that runs as a process, with those that it has started."""

    def __init__(self, name: str, process: psutil.Process, port: int) -> None:
        self.name = name
        self._process = process
        self._address = f"http://127.0.0.1:{port}{PATH}"

    def ask(self, body: Mapping[str, Any]) -> Any:
        """Return the answer to one request."""
        asked = urllib.request.Request(
            self._address, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)

    def load(self, bodies: Path, *, clients: int, seconds: int) -> Load:
        """Let so many clients ask for so long, each as soon as it has its answer.

        Args:
            bodies: a file with a body in each line.
        """
        program, surroundings = wrk()
        command = [
            str(program), "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s", "--timeout",
            f"{_ANSWER_SECONDS}s", "--script", str(_SCRIPT), self._address, "--", str(bodies),
        ]  # fmt: skip
        before, whole = self._threads(), self._cpu()
        done = subprocess.run(command, capture_output=True, text=True, env=surroundings, check=False)
        spent = {thread: seconds - before.get(thread, 0.0) for thread, seconds in self._threads().items()}
        cpu = self._cpu() - whole
        small = (seconds for (process, thread), seconds in spent.items() if thread == process or seconds < cpu * _SMALL)
        if done.returncode:
            raise SessionError(f"load on {self.name}", f"wrk ended with {done.returncode}", done.stderr)
        return Load(**json.loads(done.stdout.splitlines()[-1]), cpu=cpu, beside=sum(small))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let its processes run in this context only, until they have nothing left to do."""
        self._each(psutil.Process.resume)
        try:
            yield
            self._settle()
        finally:
            self._each(psutil.Process.suspend)

    def memory(self) -> int:
        """Bytes of memory of its processes, shared pages divided among those that share them."""
        return sum(self._each(lambda process: process.memory_full_info().pss))

    def end(self) -> None:
        """End its processes."""
        self._each(psutil.Process.kill)

    def _settle(self) -> None:
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end:
            before = self._cpu()
            time.sleep(0.2)
            if self._cpu() - before < 0.2 * _IDLE:
                return

    def _threads(self) -> dict[tuple[int, int], float]:
        """Return the seconds of processor time of each thread that lives, by its process and its own number."""
        found = self._each(lambda process: {(process.pid, item.id): sum(item[1:3]) for item in process.threads()})
        return {thread: seconds for one in found for thread, seconds in one.items()}

    def _cpu(self) -> float:
        return float(sum(self._each(lambda process: sum(process.cpu_times()[:2]))))

    def _each(self, act: Callable[[psutil.Process], Any]) -> list[Any]:
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    found.append(act(process))
        return found


@contextmanager
def serving(name: str, command: Callable[[int], Sequence[str]], folder: Path) -> Iterator[Server]:
    """Start a server; it is suspended once it has answered.

    Args:
        command: of its port.

    Raises:
        SessionError: it ended, or gave no answer in time.
    """
    port = _free_port()
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if command(port)[0] != sys.executable:
        surroundings.pop("PYTHONPATH", None)
    with TemporaryFile("w+", encoding="utf-8") as remarks:
        process = subprocess.Popen(command(port), stdout=remarks, stderr=remarks, env=surroundings, cwd=folder)
        server = Server(name, psutil.Process(process.pid), port)
        try:
            if why := _problem_of_start(server, process):
                remarks.seek(0)
                raise SessionError(f"server {name}", why, f"read its output:\n{remarks.read()[-4000:]}")
            with server.alone():
                pass
            yield server
        finally:
            server.end()
            process.wait()


def _problem_of_start(server: Server, process: subprocess.Popen[bytes]) -> str:
    end, last = time.monotonic() + _START_SECONDS, ""
    while time.monotonic() < end:
        if process.poll() is not None:
            return f"it ended with {process.returncode}"
        try:
            server.ask({"input": "ready", "model": "encoder"})
        except (urllib.error.URLError, OSError) as error:
            last = str(error)
            time.sleep(0.3)
        else:
            return ""
    return f"it did not answer within {_START_SECONDS} s: {last}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wrk() -> tuple[Path, Mapping[str, str]]:
    """wrk and the environment that it runs in: the one installed, or else Debian's, unpacked below `.venv/data`.

    Raises:
        UnavailableError: there is none.
    """
    if installed := shutil.which("wrk"):
        return Path(installed), dict(os.environ)
    program = _HOME / "usr" / "bin" / "wrk"
    if not program.is_file():
        _unpack_wrk()
    libraries = str(_HOME / "usr" / "lib" / f"{platform.machine()}-linux-gnu")
    return program, {**os.environ, "LD_LIBRARY_PATH": libraries}


def _unpack_wrk() -> None:
    _HOME.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", *_PACKAGES], cwd=_HOME, capture_output=True, check=True)
        for archive in _HOME.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(archive), str(_HOME)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = f"there is no wrk here, and apt-get and dpkg-deb cannot bring it: {error}"
        raise UnavailableError("load on servers", why, "install the package wrk") from error
