"""The speed of a decoder: SmolLM2-135M in every form that the backends have, beside eager and other libraries."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.generation_targets import targets
from tests.benchmarks.generators import BASE, PEERS, SMOLLM2, Case, Timed, measure, usable_cores
from tests.benchmarks.page import Page
from tests.movies import sentences

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import seconds_words, size_words
from optimum_core.errors import OptimumError

_CASES = (Case(1, 128, 128, 3), Case(1, 2000, 128, 2), Case(4, 128, 128, 2), Case(4, 2000, 32, 1))
_ONE_CORE = (Case(1, 128, 64, 2), Case(1, 2000, 32, 1))
_BRIEF = (Case(1, 128, 4, 1),)
_TEXTS = 48
#: What `accelerate` is told, by the name in the table.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "openvino fp32": {"target": "openvino", "precision": "fp32"},
    "openvino bf16": {"target": "openvino", "precision": "bf16"},
    "openvino int8": {"target": "openvino", "quantize": "int8"},
    "openvino int4": {"target": "openvino", "quantize": "int4"},
    "ort fp32": {"target": "ort", "precision": "fp32"},
    "ort int8": {"target": "ort", "quantize": "int8"},
    "ort int4": {"target": "ort", "quantize": "int4"},
}
#: Bytes that a step reads: of 134.5 million parameters; in 4 bits with a scale in fp16 for each 32.
_WEIGHTS = {"fp32": 538e6, "bf16": 269e6, "int8": 135e6, "int4": 76e6}
_HEAD = ("case", "how", "first token", "a token", "tokens/s", "of eager", "CPU, 1 core", "size", "perplexity")


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


def run(
    cache: Path,
    *,
    ways: Sequence[str] = (),
    brief: bool = False,
    artifacts: Path | None = None,
    beside: Sequence[str] = tuple(PEERS),
) -> Page:
    """Accelerate in every way, then time all of them in turns, on all cores and on one.

    Args:
        brief: four tokens in one case, to see that all of it works.
        artifacts: keep the models in this directory, and use those that lie there.
        beside: other libraries.
    """
    with TemporaryDirectory(prefix="optimum-generating-") as folder:
        kept = artifacts or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        made = [_read(kept, name) or _made(name, WAYS[name], kept, cache) for name in ways or WAYS]
        paths = [kept / item.name for item in made if not item.problem]
        peers = kept / "peers"
        everywhere = measure(usable_cores(), _BRIEF if brief else _CASES, paths, beside, peers, _ids_of_texts())
        alone = measure(1, _BRIEF if brief else _ONE_CORE, paths, beside, peers)
    return _page(made, everywhere, alone)


def _texts() -> tuple[list[str], list[str]]:
    """Return texts for calibration, and others for perplexity."""
    texts = [text for text in sentences() if len(text.split()) > 12][: 2 * _TEXTS]
    return texts[:_TEXTS], texts[_TEXTS:]


def _ids_of_texts() -> list[list[int]]:
    from transformers import AutoTokenizer

    ids: list[list[int]] = AutoTokenizer.from_pretrained(SMOLLM2)(_texts()[1])["input_ids"]
    return ids


def _made(name: str, asked: Mapping[str, Any], folder: Path, cache: Path) -> _Made:
    data: dict[str, Any] = {}
    if "quantize" in asked:  # the loss is in the table; the promise only has to be wide enough not to hide it
        calibration, unseen = _texts()
        data = {"calibration": calibration, "evaluate": ("perplexity", unseen), "max_drop": "100%"}
    start = time.perf_counter()
    try:
        with accelerate(SMOLLM2, cache_dir=cache, **asked, **data) as fast:
            seconds = time.perf_counter() - start
            fast.save_pretrained(folder / name)
            made = _Made(name=name, size=_size(fast), seconds=seconds, perplexity=_perplexity(fast))
    except OptimumError as error:
        made = _Made(name=name, problem=" ".join(error.why.split()))
    (folder / f"{name}.json").write_text(json.dumps(asdict(made)), "utf-8")
    return made


def _read(folder: Path, name: str) -> _Made | None:
    """Return what an earlier run made; what it failed to make is tried again."""
    path = folder / f"{name}.json"
    made = _Made(**json.loads(path.read_text("utf-8"))) if path.is_file() else None
    return made if made is not None and not made.problem else None


def _size(fast: AcceleratedModel) -> int:
    return sum((fast.directory / name).stat().st_size for name in fast.manifest.files)


def _perplexity(fast: AcceleratedModel) -> str:
    report = fast.report
    if report is None or report.promise is None:
        return ""
    kept = [item for item in report.walk if item.outcome == "kept" and item.value is not None]
    best = min(kept, key=lambda item: item.milliseconds or float("inf"), default=None)
    return f"{best.value:.1f} / {report.promise.baseline:.1f}" if best is not None else ""


def _page(made: Sequence[_Made], everywhere: Timed, alone: Timed) -> Page:
    known = {item.name: item for item in made}
    return Page(
        name="generation",
        title="Generation: SmolLM2-135M-Instruct",
        head=_HEAD,
        rows=tuple(_rows(everywhere, alone, known)),
        notes=tuple(_notes(made, everywhere, alone)),
    )


def _rows(everywhere: Timed, alone: Timed, known: Mapping[str, _Made]) -> Iterator[tuple[str, ...]]:
    for case in everywhere.times[BASE]:
        base = everywhere.times[BASE][case].step
        timed = {name: found[case] for name, found in everywhere.times.items() if case in found}
        for name, times in sorted(timed.items(), key=lambda item: -item[1].step):
            on_one, made = alone.of(name, case), known.get(name)
            score = everywhere.perplexities.get(name)
            yield (
                case,
                name,
                f"{times.first:.0f} ms",
                f"{times.step:.1f} ms",
                f"{int(case.split()[0]) * 1e3 / times.step:.0f}",
                f"{base / times.step:.2f}×",
                f"{on_one.step_cpu:.1f} ms" if on_one else "",
                size_words(made.size) if made else "",
                made.perplexity if made else f"{score:.1f}" if score else "",
            )


def _notes(made: Sequence[_Made], everywhere: Timed, alone: Timed) -> Iterator[str]:
    yield (
        "Case: rows × tokens of the prompt, random ids, greedy. Every library in a process of its own environment, one "
        f"at a time, in turns, on {everywhere.cores} cores, medians of the rounds; “a token” is the median of a "
        "round's steps, one token for every row. CPU: time of a step in processes on one core. Eager and optimum-intel "
        "are driven by a bare loop over `forward`, without the Python of `generate`. In fp32, optimum-intel is asked "
        "for a cache in fp32, as ours is; “its own cache” is the one that it has unasked, in 16 bits. llama.cpp is "
        "driven by its decode with stated tokens: it computes the scores of a step, and does not search them for the "
        "best. "
        "A way that takes three times as long for a token as eager in fp32 is timed in the first case alone."
    )
    bounds = ", ".join(
        f"{words} ({size / 1e6:.0f} MB) {size / everywhere.bandwidth * 1e3:.1f} ms" for words, size in _WEIGHTS.items()
    )
    yield (
        f"Memory is read at {everywhere.bandwidth / 1e9:.1f} GB/s on {everywhere.cores} cores, "
        f"{alone.bandwidth / 1e9:.1f} GB/s on one. A step takes at least what reading the weights takes: {bounds}."
    )
    took = ", ".join(f"{seconds_words(item.seconds)} ({item.name})" for item in made if not item.problem)
    yield f"Perplexity on film reviews, the original's behind the slash. Accelerating took {took}."
    for name, versions in everywhere.versions.items():
        yield f"{name}: {versions}."
    alone_only = {f"{name} on one core": why for name, why in alone.problems.items() if name not in everywhere.problems}
    failed = {item.name: item.problem for item in made if item.problem}
    for name, problem in (everywhere.problems | alone_only | failed).items():
        yield f"{name}: {problem}."
    yield from targets(everywhere)
