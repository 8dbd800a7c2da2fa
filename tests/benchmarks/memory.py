"""The memory that accelerating a large model takes, against the size of its weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from tests.benchmarks.page import Page
from tests.benchmarks.timing import run_child

from optimum_core.cache import CACHE_DIR_VARIABLE
from optimum_core.cli.values import seconds_words, size_words

_EVERY_SECONDS = 0.05


@dataclass(slots=True)
class _Watch:
    """The most that all child processes held together."""

    peak: int = 0


def run(cache: Path) -> Page:
    """One process that exports, checks and measures on ONNX Runtime, watched from outside with its own children."""
    with TemporaryDirectory(dir=cache) as folder:
        model = Path(folder) / "model"
        size = int(run_child("large_model", str(model)).line)
        with _watching() as watch:
            environment = {CACHE_DIR_VARIABLE: str(Path(folder) / "cache")}
            done = run_child("accelerating", str(model), "ort", environment=environment)
    facts = json.loads(done.line)
    peaks = {"the process itself": facts["peak"], "with the processes it starts": watch.peak}
    return Page(
        name="memory",
        title="Peak memory of accelerating a large model",
        head=("what", "peak", "times the weights"),
        rows=(
            ("the weights on disk", size_words(size), "1.0×"),
            *((what, size_words(peak), f"{peak / size:.1f}×") for what, peak in peaks.items()),
        ),
        notes=(
            "A BERT classifier of 8 layers, 1024 wide, random weights; accelerate(directory, target='ort'), an empty "
            f"cache: export, check against eager, measuring. It took {seconds_words(facts['seconds'])}. Sampled every "
            f"{_EVERY_SECONDS * 1e3:.0f} ms with its children, whose shared pages count more than once.",
        ),
    )


@contextmanager
def _watching() -> Iterator[_Watch]:
    watch, done = _Watch(), threading.Event()
    thread = threading.Thread(target=_sample, args=(watch, done), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def _sample(watch: _Watch, done: threading.Event) -> None:
    own = psutil.Process()
    while not done.wait(_EVERY_SECONDS):
        watch.peak = max(watch.peak, sum(map(_resident, own.children(recursive=True))))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
