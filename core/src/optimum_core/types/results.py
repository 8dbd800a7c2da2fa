"""What was found out about candidates: how true, how fast, which won. Times are in milliseconds, sizes in bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, isfinite, log
from typing import Any, Literal

from optimum_core.types import rendering


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """One output on one case, compared with the eager model.

    Attributes:
        case: what was drawn ("batch 3, longer, left padding").
        shapes: the inputs' shapes.
        output: the output compared.
        relative_error: max |candidate - eager| over max |eager|.
        cosine: cosine of the two outputs as flat vectors; 1.0 when both are zero.
        agreement: share of positions with the same arg-max, for logits; None elsewhere.
        passed: within the tolerance of the precision.
        problem: why not, in words; empty when passed.
        note: what differs from eager and is allowed to, such as a row without any token.
    """

    case: str
    shapes: Mapping[str, tuple[int, ...]]
    output: str
    relative_error: float
    cosine: float
    agreement: float | None
    passed: bool
    problem: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """What was compared, and the tolerance it was held to.

    Attributes:
        results: every comparison; in a report, of those that were not chosen only the worst.
        level: compared on the "device" itself, or on the "graph" by other means.
        compared: how many comparisons there were, where `results` does not hold them all.
        formed: cases that were compared in form alone, and right: shapes, and finite values where eager has such.
    """

    precision: str
    tolerance: float
    results: tuple[CaseResult, ...]
    level: Literal["device", "graph"] = "device"
    compared: int = 0
    formed: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from eager and is allowed to, each once."""
        return tuple(dict.fromkeys(result.note for result in self.results if result.note))

    @property
    def worst(self) -> CaseResult | None:
        """The result furthest from eager."""
        return max(self.results, key=lambda result: (not result.passed, result.relative_error), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Time of one call at one shape of the workload; with several streams, elapsed time by calls completed.

    Attributes:
        least: the shortest time, which a busy machine disturbs least.
        items: sequences, pictures or sounds in one call.
        spread: the slowest round's median over the fastest round's: 1.0 is perfectly steady, 2.0 says little.
    """

    shape: str
    median: float
    p95: float
    runs: int
    least: float = 0.0
    items: int = 1
    spread: float = 1.0

    @property
    def throughput(self) -> float:
        """Items a second."""
        return 1e3 * self.items / self.median if self.median else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """One way that was tried.

    Attributes:
        name: the way in words ("onnx[torchscript] → ort cpu, level all").
        outcome: "chosen", "slower", "wrong", "failed" or "skipped".
        reason: why it has that outcome.
        build_seconds: export and optimization; `load_seconds`: opening the session.
        size: bytes of its files; for the live model, of its weights.
        memory: bytes by which the process grew at its peak while this was loaded and checked.
        baseline: this is the eager model, as its user has it.
    """

    name: str
    backend: str
    device: str
    precision: str
    outcome: Literal["chosen", "slower", "wrong", "failed", "skipped"]
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fidelity: Fidelity | None = None
    measurements: tuple[Measurement, ...] = ()
    build_seconds: float | None = None
    load_seconds: float | None = None
    size: int | None = None
    memory: int | None = None
    baseline: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One recipe of a walk from the fastest quantization to the safest.

    Attributes:
        name: scheme, who quantizes, who runs, and what differs from their defaults.
        config: the recipe, as `QuantizeConfig.to_dict` writes it.
        outcome: "kept" and "broken" are of the promise; "slow" was found slower than another that keeps it;
            "failed" could not be built or run; "skipped" was not tried.
        value: the metric; `drop`: by how much it is below the eager model's.
        milliseconds: geometric mean of the medians over the workload.
        speedup: the eager model's time over its time, measured side by side.
        size: bytes of its files.
        seconds: what building and judging it took.
    """

    name: str
    config: Mapping[str, Any]
    outcome: Literal["kept", "broken", "slow", "failed", "skipped"]
    reason: str = ""
    value: float | None = None
    drop: float | None = None
    milliseconds: float | None = None
    speedup: float | None = None
    size: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """What may be lost by quantization, and how that is measured.

    Attributes:
        metric: its name.
        baseline: the eager model's value.
        max_drop: as it was stated.
        limit: the largest drop that is allowed, in the metric's units.
        data: on what it is measured, in words.
        kept: whether the chosen model is a quantized one, and keeps it.
    """

    metric: str
    baseline: float
    max_drop: str
    limit: float
    data: str
    kept: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionHint:
    """What another precision would gain and cost, as measured beside the chosen; it was not asked for.

    Attributes:
        precision: "bf16" or "fp16".
        backend: who would run it.
        time_ratio: its time over that of the chosen, over the workload; None: it could not be timed.
        error: its relative error against the eager model in 32 bits.
        verified: whether that is within the tolerance of the precision.
    """

    precision: str
    backend: str
    time_ratio: float | None = None
    error: float | None = None
    verified: bool = False

    def __str__(self) -> str:
        """One line, with what to pass where it is worth it."""
        if self.time_ratio is None or not self.verified:
            why = "does not run" if self.error is None else f"is too far off (relative error {self.error:.1%})"
            return f"{self.precision} on {self.backend} {why}"
        error = "" if self.error is None else f" (relative error {self.error:.1%})"
        if self.time_ratio < 1:
            ask = f"precision={self.precision!r}"
            return f"{self.precision} would take {self.time_ratio:.2f} of the time{error}: pass {ask}"
        return f"{self.precision} would be slower here: {self.time_ratio:.2f} times the time{error}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was tried, what each cost, how true each is, and why this one.

    Attributes:
        workload: the shapes that were measured.
        objective: "latency", "throughput" or "size".
        candidates: the chosen first, then by time.
        seconds: how long the whole search took.
        from_cache: an earlier search's report, read again.
        promise: what quantization was allowed to lose; None: none was asked for.
        walk: every recipe that was tried, in order.
        notes: what else its reader should know.
        precision_hint: what another precision would gain, where one is offered that was not asked for.
        settled: whether the choice may be remembered: nothing failed for a reason of the moment, and the machine was
            quiet enough to tell which candidate is faster.
    """

    model: str
    task: str
    workload: tuple[str, ...]
    candidates: tuple[CandidateResult, ...]
    objective: str = "latency"
    seconds: float = 0.0
    from_cache: bool = False
    promise: Promise | None = None
    walk: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()
    precision_hint: PrecisionHint | None = None
    settled: bool = True

    @property
    def chosen(self) -> CandidateResult | None:
        return next((item for item in self.candidates if item.outcome == "chosen"), None)

    def times_eager(self, item: CandidateResult) -> float | None:
        """How many times as fast as the eager model a candidate is: the geometric mean over the shapes that both were
        measured at; None where there is none."""
        eager = next((one for one in self.candidates if one.baseline), None)
        if eager is None:
            return None
        own = {one.shape: one.median for one in item.measurements}
        ratios = [one.median / own[one.shape] for one in eager.measurements if own.get(one.shape)]
        return exp(sum(map(log, ratios)) / len(ratios)) if ratios and min(ratios) > 0 else None

    def __repr__(self) -> str:
        """One line: how many were tried, and which was chosen."""
        return rendering.to_line(self)

    def __str__(self) -> str:
        """The whole report as an aligned table, no wider than the terminal."""
        return rendering.to_text(self)

    def _repr_html_(self) -> str:
        """The report as a notebook shows it."""
        return rendering.to_html(self)

    def to_markdown(self) -> str:
        """The report as a Markdown table."""
        return rendering.to_markdown(self)

    def to_svg(self) -> str:
        """The measured times as a bar chart."""
        return rendering.to_svg(self)

    def to_json(self) -> str:
        """Everything in the report, infinities and NaN as null."""
        return json.dumps(_finite(asdict(self)), indent=2)


def _finite(tree: Any) -> Any:
    """The same tree in values that JSON has."""
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not isfinite(tree) else tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that `accelerate` is doing or has done, for a display of progress.

    Attributes:
        stage: "read", "describe", "reference", "export", "optimize", "quantize", "load", "verify", "evaluate",
            "measure", "calibrate", "cache" or "wait".
        detail: on what, in words.
        seconds: how long it took; None: it begins.
        problem: why it failed; empty otherwise.
    """

    stage: str
    detail: str
    seconds: float | None = None
    problem: str = ""
