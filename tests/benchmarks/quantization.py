"""Gain and loss by quantization: real labels on a trained classifier, and the speed of a DistilBERT."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tests.benchmarks import peers, subjects
from tests.benchmarks.children.peer import timed
from tests.benchmarks.page import Page
from tests.movies import batches, reviews, trained_classifier

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import latency_words, seconds_words, size_words
from optimum_core.errors import OptimumError

Inputs = dict[str, np.ndarray[Any, Any]]

_ROUNDS, _SECONDS = 9, 0.4
_CALIBRATION = 300
_ALLOWED = 0.003
_EAGER, _FLOAT, _INT8, _INT4 = "eager", "accelerate, unquantized", 'accelerate, "int8"', 'accelerate, "int4"'
_MOVIE, _DISTILBERT = "minilm-movie", "DistilBERT"
#: Shape 1x128, where the targets are.
_MARK = subjects.SHAPES.index((1, 128))
_HEAD = ("model", "how", *(f"{b}x{n}" for b, n in subjects.SHAPES), "accuracy", "drop", "size", "of eager", "made in")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """A model, what ranges may be found on, and what it is tested on: nothing, where its weights are random.

    Attributes:
        asked: what `accelerate` is told, by the name in the table.
    """

    name: str
    model: Any
    calibration: Sequence[Inputs]
    tested: Sequence[tuple[Inputs, np.ndarray[Any, Any]]] = ()
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def shapes(self) -> list[dict[str, torch.Tensor]]:
        return [subjects.text_inputs(self.model, batch, length) for batch, length in subjects.SHAPES]

    @property
    def size(self) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to run a subject.

    Attributes:
        times: milliseconds of calls at the shape of that number, made for that many seconds; None: there are none.
        size: bytes; `seconds`: what making it took.
        told: what else there is to say.
    """

    name: str
    times: Callable[[int, float], list[float]] | None
    size: int | None = None
    accuracy: float | None = None
    seconds: float | None = None
    told: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Result:
    """A way, its medians by shape, and eager's."""

    subject: str
    way: _Way
    medians: Sequence[float]
    eager: _Way
    base: Sequence[float]

    @property
    def drop(self) -> float | None:
        """Return the loss of accuracy, as a share of 1."""
        if self.way.accuracy is None or self.eager.accuracy is None:
            return None
        return self.eager.accuracy - self.way.accuracy

    @property
    def share(self) -> float | None:
        """Its size by eager's."""
        return self.way.size / self.eager.size if self.way.size and self.eager.size else None

    @property
    def gain(self) -> float | None:
        """Eager's time over its own, where the targets are."""
        return self.base[_MARK] / self.medians[_MARK] if self.medians else None

    def row(self) -> tuple[str, ...]:
        pairs = zip(self.medians, self.base, strict=False)
        times = [f"{latency_words(own)} ({base / own:.2f}×)" for own, base in pairs]
        drop, share, accuracy = self.drop, self.share, self.way.accuracy
        return (
            self.subject,
            self.way.name,
            *(times or ["–"] * len(subjects.SHAPES)),
            "–" if accuracy is None else f"{accuracy:.2%}",
            "–" if drop is None else f"{100 * drop:+.2f}",
            "–" if self.way.size is None else size_words(self.way.size),
            "–" if share is None else f"{share:.2f}",
            "–" if self.way.seconds is None else seconds_words(self.way.seconds),
        )


def run(cache: Path, *, with_peers: bool = False, movie_model: Path | None = None) -> Page:
    """Both models, every way.

    Args:
        with_peers: also optimum-onnx and optimum-intel, for which environments are made.
        movie_model: the trained classifier; None: it is trained, once.
    """
    results: list[_Result] = []
    notes: list[str] = []
    for make in (partial(_movie, movie_model), _distilbert):
        found, told = _subject(make(), cache, peers.PEERS if with_peers else ())
        results += found
        notes += told
    return Page(
        name="quantization",
        title="Quantization with a promise",
        head=_HEAD,
        rows=tuple(result.row() for result in results),
        notes=(_HOW, *_targets(results), *notes),
    )


_HOW = (
    f"Medians of whole calls in {_ROUNDS} rounds of {_SECONDS} s in turns, torch tensors in and out, and in brackets "
    f"times the speed of eager in fp32. Every accelerate began with an empty cache. {_MOVIE}: MiniLM fine-tuned on "
    "film reviews (Hutto and Gilbert 2014), its accuracy on all reviews that it was not trained on; drops are in "
    f"points. Ranges were found on {_CALIBRATION} reviews of the training, and max_drop={_ALLOWED} was promised of the "
    f"accuracy. {_DISTILBERT}: its published size, random weights, so that speed alone says something: its promise is "
    "one that anything keeps, its ranges are of drawn tokens."
)


# What is measured.


def _movie(directory: Path | None) -> _Subject:
    model, tokenizer = trained_classifier(directory)
    train, test = reviews()
    rows = train[:_CALIBRATION]
    promised: dict[str, Any] = {
        "calibration": [text for text, _ in rows],
        "evaluate": ("accuracy", list(test)),
        "max_drop": _ALLOWED,
        "processor": tokenizer,
    }
    return _Subject(
        name=_MOVIE,
        model=model,
        calibration=[inputs for inputs, _ in batches(rows, tokenizer)],
        tested=list(batches(test, tokenizer)),
        asked={
            _FLOAT: {"precision": "auto"},
            _INT8: {"quantize": "int8", **promised},
            _INT4: {"quantize": "int4", **promised},
        },
    )


def _distilbert() -> _Subject:
    model = subjects.distilbert()
    drawn = [_arrays(subjects.text_inputs(model, 1, length, seed=length)) for length in range(8, 128, 4)]
    promised: dict[str, Any] = {"calibration": drawn, "evaluate": _anything, "max_drop": 0}
    asked = {_FLOAT: {"precision": "auto"}, _INT8: {"quantize": "int8", **promised}}
    return _Subject(name=_DISTILBERT, model=model, calibration=drawn, asked=asked)


def _anything(fast: AcceleratedModel) -> float:
    """The metric of a model that knows nothing."""
    return float(fast.manifest is not None)


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Inputs:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


# Measuring.


def _subject(subject: _Subject, cache: Path, others: Iterable[str]) -> tuple[list[_Result], list[str]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=cache)))
        ways = [_way(_EAGER, subject.model, subject, size=subject.size)]
        ways += [_accelerated(name, subject, folder / str(i), stack) for i, name in enumerate(subject.asked)]
        if others:
            subject.model.save_pretrained(folder / "model")
            _write(subject, folder / "rows.npz")
        for name in others:
            ways += _peer(name, folder, stack)
        medians = _race(ways)
    base = medians[_EAGER]
    results = [
        _Result(subject=subject.name, way=way, medians=medians.get(way.name, ()), eager=ways[0], base=base)
        for way in ways
    ]
    return results, [f"{subject.name}, {way.name}: {way.told}." for way in ways if way.told]


def _race(ways: Sequence[_Way]) -> dict[str, list[float]]:
    """Every way at every shape once a round, the order reversed from round to round; medians by shape."""
    running = {way.name: way.times for way in ways if way.times is not None}
    found: dict[str, list[list[float]]] = {name: [[] for _ in subjects.SHAPES] for name in running}
    for turn in range(_ROUNDS):
        for number in range(len(subjects.SHAPES)):
            for name in list(running)[:: 1 if turn % 2 == 0 else -1]:
                found[name][number] += running[name](number, _SECONDS)
    return {name: [median(times) for times in by_shape] for name, by_shape in found.items()}


def _way(name: str, model: Any, subject: _Subject, **facts: Any) -> _Way:
    """A model in this process."""
    calls = [partial(_called, model, inputs) for inputs in subject.shapes]
    return _Way(
        name=name,
        times=lambda number, seconds: timed(calls[number], seconds),
        accuracy=_accuracy(model, subject),
        **facts,
    )


def _called(model: Any, inputs: Mapping[str, torch.Tensor]) -> Any:
    with torch.inference_mode():
        return model(**inputs)


def _accuracy(model: Any, subject: _Subject) -> float | None:
    if not subject.tested:
        return None
    right = [
        _called(model, {name: torch.from_numpy(array) for name, array in inputs.items()}).logits.argmax(-1).numpy()
        == labels
        for inputs, labels in subject.tested
    ]
    return float(np.concatenate(right).mean())


def _accelerated(name: str, subject: _Subject, cache: Path, stack: ExitStack) -> _Way:
    start = time.perf_counter()
    fast = accelerate(subject.model, shapes=subjects.SHAPES, cache_dir=cache, **subject.asked[name])
    seconds = time.perf_counter() - start
    stack.enter_context(fast)
    report = fast.report
    assert report is not None and report.chosen is not None
    kept = next((trial for trial in report.walk if trial.outcome == "kept"), None)
    recipe = f" ({', '.join(f'{key}: {value}' for key, value in kept.config.items())})" if kept else ""
    failing = "" if kept or report.promise is None else f"; {report.chosen.reason}"
    return _way(
        name,
        fast,
        subject,
        size=report.chosen.size,
        seconds=seconds,
        told=f"{kept.name if kept else report.chosen.name}{recipe}{failing}",
    )


def _peer(name: str, folder: Path, stack: ExitStack) -> Iterator[_Way]:
    """The peer's ways; a single one without times where it cannot be had."""
    try:
        peer = stack.enter_context(peers.running(name, folder / "model", folder / "rows.npz", folder / name))
    except OptimumError as error:
        yield _Way(name=name, times=None, told=f"{error.why}")
        return
    for way, facts in peer.ways.items():
        problem = facts.get("problem", "")
        yield _Way(
            name=f"{name}, {way}",
            times=None if problem else partial(peer.times, way),
            size=facts.get("size"),
            accuracy=facts.get("accuracy"),
            seconds=facts.get("seconds"),
            told=problem or peer.versions,
        )


def _write(subject: _Subject, file: Path) -> None:
    """The rows for other processes, as `children/peer.py` reads them."""
    purposes: dict[str, Sequence[Inputs]] = {
        "calibration": subject.calibration,
        "test": [inputs for inputs, _ in subject.tested],
        "labels": [{"labels": labels} for _, labels in subject.tested],
        "shapes": [_arrays(inputs) for inputs in subject.shapes],
    }
    arrays: dict[str, Any] = {
        f"{purpose}/{number}/{name}": array
        for purpose, rows in purposes.items()
        for number, inputs in enumerate(rows)
        for name, array in inputs.items()
    }
    np.savez(file, **arrays)


# The targets.


def _targets(results: Sequence[_Result]) -> Iterator[str]:
    found = {(result.subject, result.way.name): result for result in results}
    fast, true, small = found[_DISTILBERT, _INT8], found[_MOVIE, _INT8], found[_MOVIE, _INT4]
    shape = "{}x{}".format(*subjects.SHAPES[_MARK])
    yield f"Target: {_DISTILBERT} in int8 at {shape} at least 9 times eager: {_met(fast.gain, 9.0)}."
    others = [
        r.medians[_MARK]
        for r in results
        if r.subject == _DISTILBERT and r.way.name.startswith("optimum-") and r.medians
    ]
    if others:
        ahead = min(others) / fast.medians[_MARK]
        yield f"Target: there at least 1.4 times the best int8 of the others: {ahead:.2f} times, {_met(ahead, 1.4)}."
    assert true.drop is not None and small.share is not None
    yield f"Target: {_MOVIE} in int8 loses at most {100 * _ALLOWED:.1f} points: {_met(-true.drop, -_ALLOWED)}."
    yield f"Target: {_MOVIE} in int4 is at most a fifth of the size: {_met(-small.share, -0.2)}."


def _met(value: float | None, least: float) -> str:
    return "met" if value is not None and value >= least else "MISSED"
