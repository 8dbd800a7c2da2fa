"""The speed of a decoder: SmolLM2-135M in every form that the backends have, beside the eager model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.page import Page
from tests.benchmarks.timing import run_child
from tests.movies import sentences

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import seconds_words, size_words
from optimum_core.errors import OptimumError

SMOLLM2 = Path(sys.prefix) / "data" / "smollm2"
_CASES = ((1, 128, 128), (1, 2000, 128), (4, 128, 128), (4, 2000, 128))
_ONE_CORE = ((1, 128, 64), (1, 2000, 64))
_ROUNDS = 3
_TEXTS = 48
_BASE = "eager fp32"
#: What `accelerate` is told, by the name in the table.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "openvino fp32": {"target": "openvino", "precision": "fp32"},
    "openvino bf16": {"target": "openvino", "precision": "bf16"},
    "openvino int8": {"target": "openvino", "quantize": "dynamic-int8"},
    "openvino int4": {"target": "openvino", "quantize": "dynamic-int4"},
    "ort fp32": {"target": "ort", "precision": "fp32"},
    "ort int4": {"target": "ort", "quantize": "dynamic-int4"},
}
_HEAD = ("how", "case", "first token", "a token", "tokens/s", "of eager", "CPU, 1 core", "size", "perplexity")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """An artifact, or why there is none: `problem`.

    Attributes:
        perplexity: on film reviews that calibration did not see, and the original's.
    """

    name: str
    size: int = 0
    seconds: float = 0.0
    perplexity: str = ""
    problem: str = ""


def run(cache: Path, *, ways: Sequence[str] = (), single: bool = False, artifacts: Path | None = None) -> Page:
    """Accelerate in every way, then time all of them in turns in one process, on all cores and on one.

    Args:
        single: batch 1 and two rounds alone, which takes a tenth of the time.
        artifacts: keep the accelerated models in this directory, and use those that lie there.
    """
    rounds = 2 if single else _ROUNDS
    cases = [case for case in _CASES if case[0] == 1 or not single]
    with TemporaryDirectory(prefix="optimum-generating-") as folder:
        kept = artifacts or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        made = [_read(kept, name) or _made(name, WAYS[name], kept, cache) for name in ways or WAYS]
        paths = [str(kept / item.name) for item in made if not item.problem]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        everywhere = _measured(cores, rounds, cases, paths)
        alone = _measured(1, rounds, _ONE_CORE, paths)
    return _page(made, everywhere, alone, cores, rounds)


def _made(name: str, asked: Mapping[str, Any], folder: Path, cache: Path) -> _Made:
    texts = [text for text in sentences() if len(text.split()) > 12][: 2 * _TEXTS]
    data: dict[str, Any] = {}
    if "quantize" in asked:  # the loss is in the table; the promise only has to be wide enough not to hide it
        data = {"calibration": texts[:_TEXTS], "evaluate": ("perplexity", texts[_TEXTS:]), "max_drop": "100%"}
    start = time.perf_counter()
    try:
        with accelerate(SMOLLM2, cache_dir=cache, **asked, **data) as fast:
            seconds = time.perf_counter() - start
            fast.save_pretrained(folder / name)
            made = _Made(name=name, size=_size(fast), seconds=seconds, perplexity=_perplexity(fast))
            (folder / f"{name}.json").write_text(json.dumps(asdict(made)), "utf-8")
            return made
    except OptimumError as error:
        return _Made(name=name, problem=error.why)


def _read(folder: Path, name: str) -> _Made | None:
    """Return what an earlier run made."""
    path = folder / f"{name}.json"
    return _Made(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _size(fast: AcceleratedModel) -> int:
    return sum((fast.directory / name).stat().st_size for name in fast.manifest.files)


def _perplexity(fast: AcceleratedModel) -> str:
    report = fast.report
    if report is None or report.promise is None:
        return ""
    kept = [item for item in report.walk if item.outcome == "kept" and item.value is not None]
    best = min(kept, key=lambda item: item.milliseconds or float("inf"), default=None)
    return f"{best.value:.1f} / {report.promise.baseline:.1f}" if best is not None else ""


def _measured(cores: int, rounds: int, cases: Sequence[tuple[int, int, int]], paths: Sequence[str]) -> Any:
    return json.loads(run_child("generating", str(SMOLLM2), str(cores), str(rounds), json.dumps(cases), *paths).line)


def _page(made: Sequence[_Made], everywhere: Any, alone: Any, cores: int, rounds: int) -> Page:
    known = {item.name: item for item in made}
    rows = [row for name in everywhere["times"] for row in _rows(name, everywhere, alone, known.get(name))]
    return Page(
        name="generation",
        title="Generation: SmolLM2-135M-Instruct",
        head=_HEAD,
        rows=(*rows, *((item.name, item.problem) + ("",) * (len(_HEAD) - 2) for item in made if item.problem)),
        notes=(
            "Case: batch × prompt + new tokens, random ids, greedy. All models in one process on "
            f"{cores} cores, in turns, medians of {rounds} rounds; “a token” is the median of a round's steps. CPU: "
            "time per token in a process on one core, 64 new tokens. The eager model is driven by a bare loop, without "
            "the Python of `generate`.",
            f"Memory is read at {everywhere['bandwidth'] / 1e9:.1f} GB/s on {cores} cores, "
            f"{alone['bandwidth'] / 1e9:.1f} GB/s on one: weights in fp32 (538 MB) bound a step to "
            f"{538e6 / everywhere['bandwidth'] * 1e3:.1f} ms, in bf16 to "
            f"{269e6 / everywhere['bandwidth'] * 1e3:.1f} ms.",
            "Perplexity on film reviews, the original's behind the slash. Accelerating took "
            + ", ".join(f"{seconds_words(item.seconds)} ({item.name})" for item in made if not item.problem)
            + ".",
        ),
    )


def _rows(name: str, everywhere: Any, alone: Any, made: _Made | None) -> Iterator[tuple[str, ...]]:
    for case, (first, step, _, _) in everywhere["times"][name].items():
        batch, _ = case.split("x")
        on_one = alone["times"][name].get(f"{case.split('+')[0]}+64")
        yield (
            name,
            case,
            f"{first:.0f} ms",
            f"{step:.1f} ms",
            f"{int(batch) * 1e3 / step:.0f}",
            f"{everywhere['times'][_BASE][case][1] / step:.2f}×",
            f"{on_one[3]:.1f} ms" if on_one else "",
            size_words(made.size) if made else "",
            made.perplexity if made else "",
        )
