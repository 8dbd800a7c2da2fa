"""Models of real size at several shapes: what one would run instead, beside what `accelerate` picks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from tests.benchmarks import competitors, peak, subjects
from tests.benchmarks.page import Page

from optimum_core import AcceleratedModel, accelerate
from optimum_core.cli.values import latency_words
from optimum_core.measure import Contestant, Effort, measure, score
from optimum_core.measure.workload import WorkShape
from optimum_core.types import CandidateResult, Measurement
from optimum_core.verify.comparison import tolerance_of

_TEXT = ((1, 16), (1, 128), (8, 128), (32, 32))
_SIDE_BY_SIDE = Effort(rounds=7, seconds=0.4, hopeless=float("inf"), budget=float("inf"))
_AT_LENGTH = Effort(rounds=9, seconds=0.5, hopeless=float("inf"), budget=float("inf"))
#: Candidates this far behind in the search are not measured again: no drift makes up for that.
_HOPELESS = 1.6
_OURS = "accelerate"
_EAGER = "eager"
_ROOF = "8x128"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """One shape of a model's grid."""

    shape: WorkShape
    inputs: dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """One model at one shape: milliseconds by contestant, why others have none, and errors against eager."""

    model: str
    shape: str
    times: Mapping[str, float]
    missing: Mapping[str, str]
    errors: Mapping[str, float]

    @property
    def ahead(self) -> float:
        """The best of the others over ours; above 1, ours is faster."""
        return min(time for name, time in self.times.items() if name != _OURS) / self.times[_OURS]

    def row(self) -> tuple[str, ...]:
        eager = self.times[_EAGER]
        others = [name for name in (*competitors.CONTESTANTS, _OURS) if name != _EAGER]
        ratios = [f"{eager / self.times[name]:.2f}×" if name in self.times else "–" for name in others]
        return self.model, self.shape, latency_words(eager), *ratios, f"{self.ahead:.2f}×", f"{self.errors[_OURS]:.0e}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """The maker of a model of the grid, and the shapes it is run at."""

    make: Callable[[], Any]
    cases: Callable[[Any], list[_Case]]


def run(cache: Path, *, models: Sequence[str] = ()) -> Page:
    """Every model, or those named."""
    cells: list[_Cell] = []
    notes: list[str] = []
    for name in models or MODELS:
        found, told = _model(name, MODELS[name], cache)
        cells += found
        notes += told
        gc.collect()
    return Page(
        name="grid",
        title="Side by side",
        head=("model", "shape", "eager", *(n for n in (*competitors.CONTESTANTS, _OURS) if n != _EAGER), *_LAST),
        rows=tuple(cell.row() for cell in cells),
        notes=(_HOW, f"Geometric mean over {len(cells)} cells: {_means(cells)}.", *notes),
    )


_LAST = (f"{_OURS} / best other", "error")
_HOW = (
    f"Times the speed of eager; medians of whole calls in {_SIDE_BY_SIDE.rounds} rounds in alternating order. "
    "accelerate: precision='auto' for all shapes of a model together. The error is the greatest of its outputs "
    "against eager, relative to eager's greatest value. What errs by more than bf16 may is out of the race."
)


def _means(cells: Sequence[_Cell]) -> str:
    return (
        f"{geometric_mean([cell.times[_EAGER] / cell.times[_OURS] for cell in cells]):.2f}× eager, "
        f"{geometric_mean([cell.ahead for cell in cells]):.2f}× the best of the others"
    )


def _model(name: str, kind: _Kind, cache: Path) -> tuple[list[_Cell], list[str]]:
    model = kind.make()
    cases = kind.cases(model)
    work = [case.shape.lengths for case in cases]
    with accelerate(model, precision="auto", shapes=work, cache_dir=cache) as fast:
        cells = _raced(name, model, cases, fast)
        regret = _regret(model, cases, fast, cache)
        notes = [f"{name}: {regret}", *_roof(name, model, cases, cells, fast)]
    return cells, [*notes, *_why_missing(name, cells)]


def _raced(name: str, model: Any, cases: Sequence[_Case], fast: AcceleratedModel) -> list[_Cell]:
    """Every contestant at every shape, one shape after the other, with no more in memory than the contestants."""
    inputs = [case.inputs for case in cases]
    calls = {who: make(model, inputs) for who, make in competitors.CONTESTANTS.items()}
    calls[_OURS] = [_call(fast, item) for item in inputs]
    with torch.inference_mode():
        return [_cell(name, case, {who: made[i] for who, made in calls.items()}) for i, case in enumerate(cases)]


def _cell(name: str, case: _Case, calls: Mapping[str, competitors.Call | str]) -> _Cell:
    missing = {who: call for who, call in calls.items() if isinstance(call, str)}
    ready = {who: call for who, call in calls.items() if not isinstance(call, str)}
    reference = ready[_EAGER]()
    errors = {who: _error(call(), reference) for who, call in ready.items()}
    allowed = tolerance_of("bf16").relative
    missing |= {who: f"wrong, error {error:.0e}" for who, error in errors.items() if not error <= allowed}
    racing = {who: Contestant(calls=[call]) for who, call in ready.items() if who not in missing or who == _OURS}
    timed = measure(racing, [case.shape], _SIDE_BY_SIDE)
    return _Cell(
        model=name,
        shape=case.shape.name,
        times={who: found[0].median for who, found in timed.items()},
        missing=missing,
        errors=errors,
    )


def _call(model: Any, inputs: Mapping[str, torch.Tensor]) -> Callable[[], Mapping[str, Any]]:
    return lambda: dict(model(**inputs))


def _error(got: Mapping[str, Any], want: Mapping[str, Any]) -> float:
    """The greatest over the outputs; by position where a contestant names them in its own way."""
    found = [got[name] for name in want] if set(want) <= set(got) else list(got.values())[: len(want)]
    return max(_apart(_array(mine), _array(theirs)) for mine, theirs in zip(found, want.values(), strict=True))


def _apart(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-12))


def _array(value: Any) -> np.ndarray[Any, Any]:
    return (value.detach().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)).astype(np.float32)


# Whether the search chose well.


def _regret(model: Any, cases: Sequence[_Case], fast: AcceleratedModel, cache: Path) -> str:
    """The pick's time over that of the best candidate, all that were near it measured again at length."""
    assert fast.report is not None and fast.report.chosen is not None
    pick = fast.report.chosen
    rivals: dict[str, AcceleratedModel] = {"the pick": fast}
    try:
        for item in _near(fast.report.candidates, pick):
            rivals[item.name] = _alone(model, item, cases, cache)
        contestants = {
            who: Contestant(calls=[_call(one, case.inputs) for case in cases]) for who, one in rivals.items()
        }
        times = measure(contestants, [case.shape for case in cases], _AT_LENGTH)
    finally:
        for one in rivals.values():
            if one is not fast:
                one.close()
    return _regret_words(pick.name, times)


def _regret_words(pick: str, times: Mapping[str, Sequence[Measurement]]) -> str:
    scores = {who: score(found) for who, found in times.items()}
    best = min(scores, key=scores.__getitem__)
    regret = f"{scores['the pick'] / scores[best] - 1:.1%} regret over {len(scores)} measured at length"
    return f"picked {pick}; {regret}" + ("." if best == "the pick" else f", the best being {best}.")


def _near(candidates: Sequence[CandidateResult], pick: CandidateResult) -> Iterator[CandidateResult]:
    """Those that were true and not far behind; one for each thing that `accelerate` can be asked for by name."""
    seen = {_asked(pick)}
    for item in candidates:
        near = item.outcome == "slower" and score(item.measurements) <= _HOPELESS * score(pick.measurements)
        if near and _asked(item) not in seen:
            seen.add(_asked(item))
            yield item


def _asked(item: CandidateResult) -> tuple[Any, ...]:
    return item.backend, item.device, item.precision, item.options.get("level")


def _alone(model: Any, item: CandidateResult, cases: Sequence[_Case], cache: Path) -> AcceleratedModel:
    return accelerate(
        model,
        target=f"{item.backend}:{item.device}",
        precision=item.precision,
        level=item.options.get("level"),
        shapes=[case.shape.lengths for case in cases],
        budget=0,
        cache_dir=cache,
    )


# How far from the roof, and what is missing.


def _roof(name: str, model: Any, cases: Sequence[_Case], cells: Sequence[_Cell], fast: AcceleratedModel) -> list[str]:
    """The share of the machine's peak that the pick reaches."""
    assert fast.report is not None and fast.report.chosen is not None
    # Processors that multiply fp16 themselves do so as fast as bf16, and torch does not know how everywhere.
    precision = {"fp16": "bf16"}.get(chosen := fast.report.chosen.precision, chosen)
    top = peak.tera_operations(precision)
    found = [(case, cell) for case, cell in zip(cases, cells, strict=True) if cell.shape == _ROOF]
    return [
        f"{name} at {_ROOF}: {reached:.3f} TFLOP/s, {reached / top:.0%} of the {top:.3f} that a matrix product reaches "
        f"in {precision}."
        for case, cell in found
        if top and (reached := _operations(model, case.inputs) / cell.times[_OURS] / 1e9)
    ]


def _operations(model: Any, inputs: Mapping[str, torch.Tensor]) -> int:
    """Multiplications and additions of one call; attention is spelled out, since the fused one is not counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**inputs)
    return int(counter.get_total_flops())


def _why_missing(name: str, cells: Sequence[_Cell]) -> Iterator[str]:
    told = dict.fromkeys((who, why) for cell in cells for who, why in cell.missing.items())
    for who, why in told:
        shapes = [cell.shape for cell in cells if cell.missing.get(who) == why]
        yield f"{name}, {who} at {', '.join(shapes)}: {why}."


# What is measured.


def _text_cases(model: Any) -> list[_Case]:
    return [
        _Case(
            shape=WorkShape(name=f"{batch}x{length}", lengths={"batch": batch, "sequence": length}),
            inputs=subjects.text_inputs(model, batch, length),
        )
        for batch, length in _TEXT
    ]


def _picture_cases(model: Any) -> list[_Case]:
    return [
        _Case(shape=WorkShape(name=f"batch {n}", lengths={"batch": n}), inputs=subjects.picture_inputs(model, n))
        for n in (1, 8)
    ]


def _sound_cases(model: Any) -> list[_Case]:
    return [
        _Case(
            shape=WorkShape(name=f"{n}x16000", lengths={"batch": n, "samples": 16000}),
            inputs=subjects.sound_inputs(n, 16000),
        )
        for n in (1, 4)
    ]


#: By the name for `--models`.
MODELS: dict[str, _Kind] = {
    "minilm": _Kind(make=subjects.minilm, cases=_text_cases),
    "minilm-classifier": _Kind(make=subjects.classifier, cases=_text_cases),
    "distilbert": _Kind(make=subjects.distilbert, cases=_text_cases),
    "bert-base": _Kind(make=subjects.bert_base, cases=_text_cases),
    "vit-base": _Kind(make=subjects.vit_base, cases=_picture_cases),
    "wav2vec2-base": _Kind(make=subjects.wav2vec2_base, cases=_sound_cases),
}
