"""The cost of `import optimum_core`."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.benchmarks.page import Page
from tests.benchmarks.timing import ChildRun, run_child

from optimum_core.cli.values import latency_words

_ROUNDS = 15
_MILLISECONDS = 50.0


def run(cache: Path) -> Page:
    """New interpreters in turns, with the import and without; `cache` is not used."""
    runs: dict[str, list[ChildRun]] = {"nothing": [], "optimum_core": []}
    for _ in range(1 + _ROUNDS):
        for what, found in runs.items():
            found.append(run_child("importing", what))
    times = {what: median(item.seconds for item in found[1:]) * 1e3 for what, found in runs.items()}
    cost = times["optimum_core"] - times["nothing"]
    return Page(
        name="import",
        title="import optimum_core",
        head=("process", "median", "modules"),
        rows=(
            ("an interpreter", latency_words(times["nothing"]), runs["nothing"][-1].line),
            ("… that imports optimum_core", latency_words(times["optimum_core"]), runs["optimum_core"][-1].line),
            ("the import", f"{cost:.1f} ms", "–"),
        ),
        notes=(
            f"Medians of {_ROUNDS} processes each, in turns, to their first line of output.",
            f"Target: less than {_MILLISECONDS:.0f} ms: {'met' if cost < _MILLISECONDS else 'MISSED'}.",
        ),
    )
