"""Calls timed in turns, and processes from their start to the first result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import IO, Any

from optimum_core.errors import SessionError

ROOT = Path(__file__).parents[2]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 50) -> dict[str, list[float]]:
    """Time each call once a round, the order reversed from round to round; milliseconds, by name, in rounds' order."""
    for call in calls.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def median_excess(times: Sequence[float], base: Sequence[float]) -> float:
    """The median over the rounds of what a call took beyond another of the same round."""
    return median(own - other for own, other in zip(times, base, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildRun:
    """The result of a child process: seconds from its start to its first line, and the line."""

    seconds: float
    line: str


def run_child(program: str, *args: str, environment: Mapping[str, str] | None = None) -> ChildRun:
    """Run a program of `children/` in a new interpreter; it prints one line when it has its result.

    Raises:
        SessionError: it failed.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.children.{program}", *args]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    with TemporaryFile("w+", encoding="utf-8") as remarks:  # a pipe that is not read would stop it when full
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=remarks, text=True, env=surroundings, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
        if process.returncode != 0:
            remarks.seek(0)
            raise SessionError(
                f"benchmark {program}", f"it ended with {process.returncode}", f"read its output:\n{remarks.read()}"
            )
    return ChildRun(seconds=seconds, line=line.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A process that first prints a line of JSON, and then one for each line of JSON that it reads."""

    who: str
    process: subprocess.Popen[str]
    remarks: IO[str]

    def ask(self, question: Any) -> Any:
        """Return the answer.

        Raises:
            SessionError: the process ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        """Return the next line.

        Raises:
            SessionError: the process ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            ended = self.process.wait()
            self.remarks.seek(0)
            raise SessionError(
                self.who, f"its process ended with {ended}", f"read its output:\n{self.remarks.read()[-4000:]}"
            )
        return json.loads(line)


@contextmanager
def conversation(who: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Conversation]:
    """Start the process, and end it after the block.

    Args:
        environment: added to that of this process.
    """
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with (
        TemporaryFile("w+", encoding="utf-8") as remarks,  # a pipe that is not read would stop it when full
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=remarks, text=True, env=surroundings,
            cwd=ROOT,
        ) as process,
    ):  # fmt: skip
        yield Conversation(who=who, process=process, remarks=remarks)
        assert process.stdin is not None
        process.stdin.close()
