"""The cost of `accelerate` the first time, and when nothing has changed since."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.page import Page
from tests.benchmarks.subjects import minilm_directory
from tests.benchmarks.timing import run_child

from optimum_core.cache import CACHE_DIR_VARIABLE
from optimum_core.cli.values import seconds_words


def run(cache: Path) -> Page:
    """Two new processes on an empty cache; `cache` itself, where MiniLM may lie already, is not used."""
    rows = []
    notes = []
    with TemporaryDirectory(dir=cache) as empty, minilm_directory() as directory:
        for which in ("first", "second"):
            done = run_child("accelerating", str(directory), environment={CACHE_DIR_VARIABLE: empty})
            facts = json.loads(done.line)
            origin = "from the cache" if facts["cached"] else "built, checked, measured"
            rows.append((which, origin, seconds_words(facts["seconds"]), seconds_words(done.seconds)))
            notes = [f"Both in new processes, target 'auto', the default workload. Chosen: {facts['chosen']}."]
    return Page(
        name="accelerate",
        title="accelerate(directory): MiniLM",
        head=("call", "answer", "the call", "the whole process"),
        rows=tuple(rows),
        notes=tuple(notes),
    )
