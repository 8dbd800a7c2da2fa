"""Many sentences of mixed length: `fast.map` beside transformers' pipeline, on one and the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.page import Page
from tests.benchmarks.subjects import classifier, minilm_directory
from tests.benchmarks.timing import in_turns
from tests.movies import sentences

from optimum_core import accelerate

_SENTENCES = 2000
_ROUNDS = 3
_BATCH = 32
_TIMES = 2.0


def run(cache: Path, *, number: int = _SENTENCES) -> Page:
    """A MiniLM classifier on `number` sentences of film reviews."""
    from transformers import AutoTokenizer, pipeline

    corpus = _sentences(number)
    with minilm_directory() as directory:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    with accelerate(classifier(), shapes=[(_BATCH, 32)], cache_dir=cache) as fast:
        pipe = pipeline("text-classification", model=fast, tokenizer=tokenizer, batch_size=_BATCH)
        calls: dict[str, Callable[[], object]] = {
            "pipeline(model=fast)": lambda: pipe(corpus),
            "fast.map": lambda: fast.map(corpus, batch_size=_BATCH, tokenizer=tokenizer, progress=False),
        }
        times = in_turns(calls, _ROUNDS, warm_up=1)
        chosen = fast.report.chosen.name if fast.report and fast.report.chosen else "nothing"
    return _page({name: median(found) / 1e3 for name, found in times.items()}, _notes(corpus, tokenizer, chosen))


def _page(seconds: dict[str, float], notes: tuple[str, ...]) -> Page:
    theirs, ours = seconds.values()
    met = "met" if theirs / ours >= _TIMES else "MISSED"
    return Page(
        name="map",
        title="Many sentences: a MiniLM classifier",
        head=("how", "time", "times the pipeline"),
        rows=tuple((name, f"{taken:.2f} s", f"{theirs / taken:.2f}×") for name, taken in seconds.items()),
        notes=(*notes, f"Target: at least {_TIMES:.0f} times the pipeline on the same model: {met}."),
    )


def _notes(corpus: Sequence[str], tokenizer: Any, chosen: str) -> tuple[str, ...]:
    lengths = [len(ids) for ids in tokenizer(list(corpus))["input_ids"]]
    as_they_come = sum(
        max(lengths[start : start + _BATCH]) * len(lengths[start : start + _BATCH])
        for start in range(0, len(lengths), _BATCH)
    )
    return (
        f"{len(corpus)} sentences of film reviews (Hutto and Gilbert 2014), at most {_BATCH} in a call; medians of "
        f"{_ROUNDS} rounds in turns, tokenizing included. Chosen: {chosen}.",
        f"{sum(lengths) / len(lengths):.0f} tokens in a sentence, {as_they_come / len(lengths):.0f} when each is "
        "padded to the longest of its batch as they come.",
    )


def _sentences(number: int) -> list[str]:
    """Sentences from all over the corpus, in its order."""
    found = sentences()
    return found[:: max(1, len(found) // number)][:number]
