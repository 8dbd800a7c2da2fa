"""`encode` of many sentences beside sentence-transformers' own backends, each in its own environment, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from tests.benchmarks.page import Page
from tests.benchmarks.peers import python_of, versions_of
from tests.benchmarks.subjects import minilm_directory
from tests.lee import Similarities, similarities
from tests.movies import sentences

from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import OptimumError, SessionError

SENTENCES = 5000
_ROUNDS, _BATCH, _FEW = 3, 32, 64
_TIMES = 1.3
_CALIBRATION = 300
_PROGRAM = Path(__file__).parent / "children" / "embedder.py"
#: What pip is asked for, by backend; each brings the newest sentence-transformers and transformers that it accepts.
PEERS: Mapping[str, Sequence[str]] = {
    "torch": ("sentence-transformers",),
    "onnx": ("sentence-transformers[onnx]", "datasets"),
    "openvino": ("sentence-transformers[openvino]", "nncf", "datasets"),
}
#: By the way's name, the precision that it is compared at.
_PRECISIONS = {
    "torch_fp32": "fp32", "torch_bf16": "bf16", "onnx_fp32": "fp32", "onnx_int8": "int8", "openvino": "auto",
    "openvino_fp32": "fp32", "openvino_int8": "int8",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to encode, opened.

    Attributes:
        run: encodes all sentences, and returns the seconds that it took.
        vectors: of the rated documents, and of a few sentences.
    """

    name: str
    precision: str
    run: Callable[[], float]
    vectors: Mapping[str, np.ndarray[Any, Any]]


def run(cache: Path, *, number: int = SENTENCES, beside: Sequence[str] = tuple(PEERS)) -> Page:
    """All-MiniLM-L6-v2 on sentences of film reviews; quality is measured on rated documents."""
    rated, corpus = similarities(), _sentences(number)
    texts = {"sentences": corpus, "few": corpus[:_FEW], "documents": rated.documents}
    texts["calibration"] = rated.others[:_CALIBRATION]
    notes: list[str] = []
    with minilm_directory() as directory, ExitStack() as stack:
        ways = list(_ours(directory, cache, texts, rated, stack))
        for backend in beside:
            try:
                found, told = stack.enter_context(_peer(backend, directory, texts, cache))
            except OptimumError as error:
                found, told = [], f"{backend}: {error.why}"
            ways += found
            notes.append(told)
        seconds = _in_turns(ways)
    return _page(ways, seconds, rated, [_about(corpus), *notes])


def _ours(
    directory: Path, cache: Path, texts: Mapping[str, Any], rated: Similarities, stack: ExitStack
) -> Iterator[Way]:
    """The model in fp32, in the precision that is fastest, and in int8 with the promise on the rated documents."""

    def quality(model: AcceleratedModel) -> float:
        return rated.spearman(model.encode(rated.documents))

    shapes = [(_BATCH, 32)]
    asked: dict[str, dict[str, Any]] = {
        "fp32": {"precision": "fp32"},
        "auto": {"precision": "auto"},
        "int8": {"quantize": "int8", "calibration": texts["calibration"], "evaluate": quality},
    }
    for precision, arguments in asked.items():
        # Many sentences are encoded at a time: what counts is how many calls end, and not how soon each does.
        fast = stack.enter_context(
            accelerate(directory, shapes=shapes, cache_dir=cache, objective="throughput", **arguments)
        )
        vectors = {name: fast.encode(texts[name]) for name in ("documents", "few")}
        chosen = fast.report.chosen.name if fast.report and fast.report.chosen else "nothing"
        name = f"accelerate, {precision}: {chosen}"
        yield Way(name=name, precision=precision, run=_timed(fast, texts["sentences"]), vectors=vectors)


def _timed(fast: AcceleratedModel, corpus: Sequence[str]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        fast.encode(corpus, batch_size=_BATCH)
        return time.perf_counter() - start

    return run


@contextmanager
def _peer(backend: str, directory: Path, texts: Mapping[str, Any], cache: Path) -> Iterator[tuple[list[Way], str]]:
    """The ways of a backend of sentence-transformers, in a process of its own environment."""
    python = python_of(f"sentence-transformers-{backend}", PEERS[backend])
    folder = cache / f"embeddings-{backend}"
    folder.mkdir()
    (folder / "texts.json").write_text(json.dumps(dict(texts)), encoding="utf-8")
    command = [str(python), str(_PROGRAM), backend, str(directory), str(folder / "texts.json"), str(folder)]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    surroundings.pop("PYTHONPATH", None)
    with (
        TemporaryFile("w+", encoding="utf-8") as remarks,  # a pipe that is not read would stop it when full
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=remarks, text=True, env=surroundings,
            cwd=folder,
        ) as process,
    ):  # fmt: skip
        try:
            told: dict[str, dict[str, Any]] = _answer(process, backend)
        except SessionError as error:
            remarks.seek(0)
            raise SessionError(error.who, error.why, f"read its output:\n{remarks.read()[-4000:]}") from error
        problems = [f"{name}: {found['problem']}" for name, found in told.items() if "problem" in found]
        ways = [_way(process, backend, name, found) for name, found in told.items() if "vectors" in found]
        yield ways, "; ".join([f"{backend}: {versions_of(python)}", *problems])
        assert process.stdin is not None
        process.stdin.close()


def _way(process: subprocess.Popen[str], backend: str, name: str, found: Mapping[str, Any]) -> Way:
    def run() -> float:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"way": name}) + "\n")
        process.stdin.flush()
        return float(_answer(process, backend))

    with np.load(found["vectors"]) as kept:
        vectors = {key: kept[key] for key in kept.files}
    return Way(name=f"sentence-transformers, {name}", precision=_PRECISIONS[name], run=run, vectors=vectors)


def _answer(process: subprocess.Popen[str], backend: str) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SessionError(f"benchmark embeddings, {backend}", f"it ended with {process.wait()}", "read its output")
    return json.loads(line)


def _in_turns(ways: Sequence[Way]) -> dict[str, float]:
    """The median seconds of each way, the order reversed from round to round."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(_ROUNDS):
        for way in ways[:: 1 if turn % 2 == 0 else -1]:
            times[way.name].append(way.run())
    return {name: median(found) for name, found in times.items()}


def _page(ways: Sequence[Way], seconds: Mapping[str, float], rated: Similarities, notes: Sequence[str]) -> Page:
    first = next((way for way in ways if way.name.endswith("torch_fp32")), ways[0])
    rows = tuple(
        (
            way.name,
            f"{seconds[way.name]:.2f} s",
            f"{seconds[first.name] / seconds[way.name]:.2f}×",
            f"{rated.spearman(way.vectors['documents']):.4f}",
            f"{_cosine(way.vectors['few'], first.vectors['few']):.5f}",
        )
        for way in ways
    )
    return Page(
        name="embeddings",
        title="Sentences to vectors: MiniLM beside sentence-transformers",
        head=("how", "time", "times torch", "Spearman", "least cosine"),
        rows=rows,
        notes=(*notes, *_targets(ways, seconds)),
    )


def _cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (a, b)]
    return float((unit[0] * unit[1]).sum(axis=1).min())


def _targets(ways: Sequence[Way], seconds: Mapping[str, float]) -> Iterator[str]:
    for precision, times in (("fp32", 1.0), ("auto", 1.0), ("int8", _TIMES)):
        ours = [seconds[w.name] for w in ways if w.precision == precision and w.name.startswith("accelerate")]
        # What chooses its own precision is compared with everything that is no int8.
        fits = ("fp32", "bf16", "auto") if precision == "auto" else (precision,)
        theirs = [seconds[w.name] for w in ways if w.precision in fits and not w.name.startswith("accelerate")]
        if ours and theirs:
            met = "met" if min(theirs) / ours[0] >= times else "MISSED"
            what = f"at least {times} times the best of theirs"
            yield f"Target in {precision}: {what}: {min(theirs) / ours[0]:.2f}, {met}."


def _about(corpus: Sequence[str]) -> str:
    words = [len(text.split()) for text in corpus]
    return (
        f"{len(corpus)} sentences of film reviews (Hutto and Gilbert 2014) of {min(words)} to {max(words)} words, "
        f"{sum(words) / len(words):.0f} on average, {_BATCH} in a call at most; medians of {_ROUNDS} rounds in turns, "
        "tokenizing included. Spearman: with people's ratings of 1,225 pairs of documents (Lee et al. 2005). Least "
        f"cosine: of {_FEW} sentences, with torch in fp32."
    )


def _sentences(number: int) -> list[str]:
    """Sentences from all over the corpus, in its order."""
    found = sentences()
    return found[:: max(1, len(found) // number)][:number]
