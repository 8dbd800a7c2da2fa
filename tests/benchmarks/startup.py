"""A new process to its first result, without torch: the saved artifact beside transformers' own way."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.page import Page
from tests.benchmarks.subjects import minilm_directory
from tests.benchmarks.timing import ChildRun, run_child

from optimum_core import accelerate
from optimum_core.cli.values import seconds_words, size_words

_ROUNDS = 7
_SECONDS = 0.5
_LABELS = {"optimum-core": "optimum_core.load, numpy", "transformers": "AutoModel.from_pretrained, torch"}


def run(cache: Path) -> Page:
    """Seconds from the start of the process, and its peak memory, in turns; the first round only warms the disk."""
    with TemporaryDirectory() as folder, minilm_directory() as directory:
        artifact = Path(folder) / "artifact"
        with accelerate(directory, task="feature-extraction", target="ort", cache_dir=cache) as fast:
            fast.save_pretrained(artifact)
        places = {"optimum-core": str(artifact), "transformers": str(directory)}
        runs: dict[str, list[ChildRun]] = {how: [] for how in places}
        for _ in range(1 + _ROUNDS):
            for how, place in places.items():
                runs[how].append(run_child("first_result", how, place))
    return _page({how: found[1:] for how, found in runs.items()})


def _page(runs: dict[str, list[ChildRun]]) -> Page:
    rows, seconds, facts = [], {}, {}
    for how, found in runs.items():
        answers: list[dict[str, Any]] = [json.loads(item.line) for item in found]
        seconds[how] = median(item.seconds for item in found)
        facts[how] = answers[0]
        peak = median(answer["peak"] for answer in answers)
        rows.append((_LABELS[how], seconds_words(seconds[how]), size_words(int(peak))))
    ours, theirs = facts["optimum-core"], facts["transformers"]
    met = seconds["optimum-core"] < _SECONDS and not ours["torch"]
    return Page(
        name="startup",
        title="From the start of a process to its first result: MiniLM",
        head=("how", "median", "peak memory"),
        rows=tuple(rows),
        notes=(
            f"Medians of {_ROUNDS} processes each, in turns, the files in the disk's cache. The artifact's process "
            f"imports {'torch' if ours['torch'] else 'no torch'}; the two first values differ by "
            f"{abs(ours['value'] - theirs['value']):.0e}.",
            f"Target: a result without torch in less than {_SECONDS} s: {'met' if met else 'MISSED'}.",
        ),
    )
