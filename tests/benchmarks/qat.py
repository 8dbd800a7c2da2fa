"""The gain of training with rounding over rounding afterwards: MiniLM as a classifier of film reviews."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tests.benchmarks.page import Page
from tests.benchmarks.subjects import classifier, minilm_directory, text_inputs
from tests.movies import Review, reviews

from optimum_core.hardware import detect
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, SessionRequest

_LENGTH, _BATCH = 64, 32
_EPOCHS, _MORE_STEPS = 1, 120
_RATE, _LATER_RATE = 5e-5, 1e-5
_CALIBRATION = 16
_SHAPE = (1, 128)
_ROUNDS = 41

Batch = dict[str, torch.Tensor]
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def run(cache: Path) -> Page:
    """Train a classifier; then round it, and train copies on with and without rounding."""
    with TemporaryDirectory(dir=cache) as folder:
        return _page(Path(folder))


def _page(folder: Path) -> Page:
    train, held_out = reviews()
    batches, tests = list(_batches(train)), list(_batches(held_out))
    model = classifier()
    _train(model, batches * _EPOCHS, _RATE)
    calibration = [_arrays(batch) for batch in batches[:_CALIBRATION]]
    more = batches[:_MORE_STEPS]

    longer = copy.deepcopy(model)
    _train(longer, more, _LATER_RATE)
    taught = _taught(model, calibration, more)

    exact = QuantizeConfig()
    rows = []
    for name, module, config in (
        ("trained", model, None),
        ("trained, rounded", model, exact),
        ("trained on", longer, None),
        ("trained on, rounded", longer, exact),
        ("trained on with rounding, rounded", taught, exact),
    ):
        rows.append(_row(name, module, config, tests, calibration, folder))
    notes = (
        f"Accuracy on {len(held_out)} held-out sentences. Trained: {_EPOCHS} epoch of {len(train)} "
        f"sentences at {_RATE:g}; trained on: {len(more)} steps more at {_LATER_RATE:g}, the same for both.",
        f"Rounded: int8, static, ranges from {_CALIBRATION * _BATCH} sentences, or from training. Times: medians of "
        f"{_ROUNDS} calls at {_SHAPE[0]}x{_SHAPE[1]}, eager and compiled in turn.",
    )
    head = ("model", "accuracy", "eager", "compiled", "file", "compiling", "opening")
    return Page(name="qat", title="Training with rounding: MiniLM", head=head, rows=tuple(rows), notes=notes)


def _taught(model: Any, calibration: list[dict[str, Any]], more: list[Batch]) -> Any:
    from optimum_inc import qat

    taught = qat.prepare(copy.deepcopy(model), calibration=calibration)
    _train(taught, more, _LATER_RATE)
    return taught


def _batches(rows: Sequence[Review]) -> Iterator[Batch]:
    from transformers import AutoTokenizer

    with minilm_directory() as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
    for start in range(0, len(rows), _BATCH):
        texts, labels = zip(*rows[start : start + _BATCH], strict=True)
        made = tokenizer(list(texts), padding=True, truncation=True, max_length=_LENGTH, return_tensors="pt")
        yield {**made, "labels": torch.tensor(labels)}


def _train(model: Any, batches: list[Batch], rate: float) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=len(batches), pct_start=0.1)
    model.train()
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def _arrays(batch: Batch) -> dict[str, Any]:
    return {name: value.numpy() for name, value in batch.items() if name != "labels"}


def _row(
    name: str,
    module: Any,
    config: QuantizeConfig | None,
    tests: list[Batch],
    calibration: list[dict[str, Any]],
    folder: Path,
) -> tuple[str, ...]:
    eager = _eager(module)
    if config is None:
        return (name, _percent(eager, tests), f"{_milliseconds([eager], module)[0]:.1f} ms", "", "", "", "")
    with TemporaryDirectory(dir=folder) as place:
        began = time.perf_counter()
        artifact = _quantized(module, config, calibration, Path(place))
        compiled = time.perf_counter()
        request = SessionRequest(backend="inc", artifact=artifact, device="cpu", hardware=detect())
        session = manager().load_session(request)
        opened = time.perf_counter()
        run = manager().binder(session)
        slow, fast = _milliseconds([eager, run], module)
        size = artifact.main_file.stat().st_size / 1e6
        cells = (f"{slow:.1f} ms", f"{fast:.1f} ms", f"{size:.0f} MB", f"{compiled - began:.0f} s")
        return (name, _percent(run, tests), *cells, f"{opened - compiled:.2f} s")


def _quantized(module: Any, config: QuantizeConfig, calibration: list[dict[str, Any]], folder: Path) -> Artifact:
    """By the hooks: export, then quantize."""
    source = MemorySource(module)
    signature = describe(source.module(), name="reviews")
    (folder / "float").mkdir()
    (folder / "int8").mkdir()
    exported = manager().export(export_of("inc", "torch-export", source, signature, folder / "float"))
    request = QuantizeRequest(
        backend="inc",
        artifact=exported,
        config=config,
        hardware=detect(),
        output=folder / "int8",
        calibration=calibration,
        source=source,
    )
    return manager().quantize(request)


def _eager(module: Any) -> Run:
    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with torch.no_grad():
            return {"logits": module(**{name: torch.as_tensor(value) for name, value in inputs.items()}).logits.numpy()}

    return run


def _percent(run: Run, tests: list[Batch]) -> str:
    right = [np.asarray(run(_arrays(batch))["logits"]).argmax(1) == batch["labels"].numpy() for batch in tests]
    return f"{100 * np.concatenate(right).mean():.2f} %"


def _milliseconds(runs: list[Run], module: Any) -> list[float]:
    inputs = {name: value.numpy() for name, value in text_inputs(module, *_SHAPE).items()}
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for index, call in enumerate(runs):
            call(inputs)
            began = time.perf_counter()
            call(inputs)
            times[index].append(1000 * (time.perf_counter() - began))
    return [median(found) for found in times]
