"""Families that generate with their cache, and whether their texts equal eager's: `python -m
tests.benchmarks.generation_families [--target NAMES] [--families NAMES] [--outcomes FILE] [--seconds N]
[--markdown FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.benchmarks.families import families
from tests.benchmarks.page import Page, markdown, show, write_region

_CHILD = "tests.benchmarks.children.generation_family"
_LONGEST, _NOT_RUN = 110, "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a family on a target; on no target ("") where eager itself does not generate."""

    family: str
    target: str
    outcome: str
    reason: str = ""


class _Child:
    """A process that answers for one family after another."""

    def __init__(self, targets: Sequence[str], seconds: float) -> None:
        self._seconds = seconds
        self.process = subprocess.Popen(
            [sys.executable, "-m", _CHILD, *targets],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._stdout, selectors.EVENT_READ)
        self._unread = b""

    @property
    def _stdout(self) -> Any:
        return self.process.stdout

    def answers(self, family: str) -> Iterator[Outcome]:
        """Yield the outcomes of a family as they come.

        Raises:
            TimeoutError: it takes too long.
            EOFError: the process ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{family}\n".encode())
        self.process.stdin.flush()
        until = time.monotonic() + self._seconds
        while (facts := json.loads(self._line(until)))["outcome"] != "done":
            yield Outcome(**facts)

    def _line(self, until: float) -> bytes:
        while b"\n" not in self._unread:
            if not self._ready.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            if not (read := os.read(self._stdout.fileno(), 1 << 16)):
                raise EOFError
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def survey(names: Sequence[str], targets: Sequence[str], seconds: float) -> Iterator[Outcome]:
    """Yield the outcomes of families; one that crashes or takes too long costs no other."""
    child = None
    for name in names:
        child = child or _Child(targets, seconds)
        missing = list(targets)
        try:
            for found in child.answers(name):
                missing = [target for target in missing if found.target not in ("", target)]
                yield found
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            child.stop()
            why = f"not done in {seconds:.0f} s" if isinstance(error, TimeoutError) else "the process crashed"
            child = None
            for target in missing:
                yield Outcome(family=name, target=target, outcome="error", reason=why)
    if child is not None:
        child.stop()


def page(outcomes: Sequence[Outcome], targets: Sequence[str]) -> Page:
    """Return the table: a row for each family."""
    found: dict[str, dict[str, Outcome]] = {}
    for item in outcomes:
        found.setdefault(item.family, {})[item.target] = item
    kinds = {name: kind for name, (kind, _) in families().items()}
    rows = [
        (name, kinds.get(name, ""), *(_words(of.get("") or of.get(target)) for target in targets))
        for name, of in sorted(found.items())
    ]
    counts = []
    for target in targets:
        kinds_of = Counter(
            (of.get(target) or of.get("") or Outcome(family="", target="", outcome="not run")).outcome
            for of in found.values()
        )
        counts.append(f"{target}: " + ", ".join(f"{number} {kind}" for kind, number in kinds_of.most_common()))
    return Page(
        name="families",
        title="Families that generate",
        head=("family", "kind", *targets),
        rows=tuple(rows),
        notes=(
            f"Of {len(found)} families: {'; '.join(counts)}.",
            "Tiny models with random weights, matrices four times the usual. Equal: 64 tokens (fewer where the model "
            "has fewer positions) of three rows, greedy and with 4 beams, are those of eager; decoders' rows are "
            "padded on the left, those of encoders on the right. Forward only: accelerated as one forward pass, and "
            "`generate` refuses. Refused: `accelerate` with this target raises. Eager fails: transformers itself does "
            "not generate with this tiny model, or writes one word again and again. No tiny model: the rules that "
            "make configurations small do not fit it.",
        ),
    )


def _words(outcome: Outcome | None) -> str:
    if outcome is None:
        return _NOT_RUN
    name = f"**{outcome.outcome}**" if outcome.outcome in ("WRONG", "error") else outcome.outcome
    text = " ".join(outcome.reason.replace("|", "/").split())
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return f"{name}: {short}" if short else name


def main() -> None:
    """Survey what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generation_families", description=__doc__)
    parser.add_argument("--target", default="openvino,ort", help="backends, with commas between them")
    parser.add_argument("--families", default="", help="names, with commas between them; by default all")
    parser.add_argument(
        "--outcomes", type=Path, metavar="FILE", help="keep outcomes here; what it has is not run again"
    )
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="the longest that a family may take; by default 240"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table into this file; rows of others stay"
    )
    asked = parser.parse_args()
    targets = asked.target.split(",")
    kept = list(_read(asked.outcomes))
    done = {item.family for item in kept}
    wanted = [name for name in asked.families.split(",") if name] or list(families())
    for found in survey([name for name in wanted if name not in done], targets, asked.seconds):
        print(found.family, found.target, found.outcome, found.reason[:200].replace("\n", " "), file=sys.stderr)  # noqa: T201
        kept.append(found)
        _keep(asked.outcomes, found)
    if asked.families:
        run = {item.family for item in kept}
        kept += [item for item in _written(asked.markdown, targets) if item.family not in run]
    made = page(kept, targets)
    show(Console(), made)
    if asked.markdown is not None:
        origin = f"`make bench-families MARKDOWN={asked.markdown.as_posix()}`"
        write_region(asked.markdown, made.name, f"{markdown(made)}\n\n{origin}")


def _written(file: Path | None, targets: Sequence[str]) -> Iterator[Outcome]:
    """Yield the outcomes in a table that this command wrote, of families that it still has; reasons are cut short."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    head = next((row for row in rows if row[0] == "family"), [])
    known = families()
    for row in rows:
        for target in targets:
            if row[0] in known and target in head and (cell := row[head.index(target)]) != _NOT_RUN:
                outcome, _, reason = cell.partition(": ")
                yield Outcome(family=row[0], target=target, outcome=outcome.strip("*"), reason=reason)


def _read(file: Path | None) -> Iterator[Outcome]:
    if file is not None and file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            yield Outcome(**json.loads(line))


def _keep(file: Path | None, outcome: Outcome) -> None:
    if file is not None:
        facts = {name: getattr(outcome, name) for name in Outcome.__slots__}
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
