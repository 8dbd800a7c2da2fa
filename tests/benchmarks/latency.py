"""The eager model beside the accelerated one, whole calls with torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tests.benchmarks.page import Page
from tests.benchmarks.subjects import SHAPES, distilbert, minilm, text_inputs

from optimum_core import accelerate
from optimum_core.cli.values import latency_words
from optimum_core.measure import Contestant, Effort, measure
from optimum_core.measure.workload import WorkShape
from optimum_core.types import Measurement

_EFFORT = Effort(rounds=8, seconds=0.4, hopeless=float("inf"))
_MODELS: dict[str, Callable[[], Any]] = {"MiniLM (22 M)": minilm, "DistilBERT (67 M)": distilbert}


def run(cache: Path) -> Page:
    """Every model at every shape."""
    rows: list[tuple[str, ...]] = []
    notes = []
    for name, make in _MODELS.items():
        eager = make()
        with accelerate(eager, shapes=SHAPES, cache_dir=cache) as fast:
            rows += _rows(name, _measured(eager, fast))
            chosen = fast.report.chosen if fast.report else None
            notes.append(f"{name}: {chosen.name if chosen else 'nothing chosen'}.")
    return Page(
        name="latency",
        title="Latency: eager beside accelerated",
        head=("model", "batch x sequence", "eager", "accelerated", "ratio"),
        rows=tuple(rows),
        notes=(
            f"Medians of whole calls, torch tensors in and out, {_EFFORT.rounds} rounds in alternating order; eager "
            "under torch.inference_mode.",
            *notes,
        ),
    )


def _measured(eager: Any, fast: Any) -> Mapping[str, tuple[Measurement, ...]]:
    drawn = [text_inputs(eager, batch, length) for batch, length in SHAPES]
    shapes = [
        WorkShape(name=f"{batch}x{length}", lengths={"batch": batch, "sequence": length}) for batch, length in SHAPES
    ]
    contestants = {
        name: Contestant(calls=[_call(model, inputs) for inputs in drawn])
        for name, model in (("eager", eager), ("fast", fast))
    }
    with torch.inference_mode():
        return measure(contestants, shapes, _EFFORT)


def _call(model: Any, inputs: Mapping[str, torch.Tensor]) -> Callable[[], object]:
    return lambda: model(**inputs)


def _rows(name: str, measured: Mapping[str, tuple[Measurement, ...]]) -> Iterator[tuple[str, ...]]:
    for eager, fast in zip(measured["eager"], measured["fast"], strict=True):
        times = latency_words(eager.median), latency_words(fast.median)
        yield name, eager.shape, *times, f"{eager.median / fast.median:.2f}×"
