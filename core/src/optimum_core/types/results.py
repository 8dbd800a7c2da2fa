"""Results of a search: fidelity and speed of the candidates, and the choice. Times in milliseconds, sizes in bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import exp, isfinite, log
from typing import Any, Literal

from optimum_core.types import rendering
from optimum_core.types.tensors import FixedAxis

#: Share of a time that may be noise.
_NOISE = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """One output on one case, compared with the eager model.

    Attributes:
        case: description of the inputs ("batch 3, longer, left padding").
        shapes: the inputs' shapes.
        output: the output compared.
        relative_error: max |candidate - eager| over max |eager|.
        cosine: cosine of the two outputs as flat vectors; 1.0 when both are zero.
        agreement: share of positions with the same arg-max, for logits; None elsewhere.
        divergence: of a text's next tokens, Kullback-Leibler divergence of the candidate's probabilities from eager's,
            the mean of all tokens in nats; None elsewhere.
        passed: within the tolerance of the precision.
        problem: the reason why it did not pass; empty when passed.
        note: an allowed difference from eager, such as a row without any token.
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
    divergence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """The comparisons of a candidate with eager, and the tolerance applied.

    Attributes:
        results: every comparison; in a report, only the worst one of candidates that were not chosen.
        level: compared on the "device" itself, or on the "graph" by other means.
        compared: number of comparisons, where `results` does not hold them all.
        formed: number of cases that passed a comparison of form only: shapes, and finite values where eager's are.
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
        """The distinct allowed differences from eager."""
        return tuple(dict.fromkeys(result.note for result in self.results if result.note))

    @property
    def worst(self) -> CaseResult | None:
        """The result furthest from eager."""
        return max(self.results, key=lambda result: (not result.passed, result.relative_error), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Time of one call at one shape of the workload; with several streams, elapsed time by calls completed.

    Attributes:
        least: the shortest time, which other load on the machine affects least.
        items: sequences, pictures or sounds in one call.
        spread: the slowest round's median over the fastest round's: 1.0 is perfectly steady, 2.0 is unreliable.
        tokens: new tokens in one call, over all rows, where it generates; `first`: median time until the first of them.
        calls: how often such calls come, where the workload was counted; None: all shapes matter alike.
        joules: energy of the machine's processors and memory in one call; None: the machine does not measure it.
        joules_estimate: the constants by which `joules` were estimated, of this process alone; empty: they are
            counted.
    """

    shape: str
    median: float
    p95: float
    runs: int
    least: float = 0.0
    items: int = 1
    spread: float = 1.0
    tokens: int | None = None
    first: float | None = None
    calls: int | None = None
    joules: float | None = None
    joules_estimate: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second after the first of every row; None where the call generates none."""
        if self.tokens is None or self.first is None or self.median <= self.first or self.tokens <= self.items:
            return None
        return 1e3 * (self.tokens - self.items) / (self.median - self.first)

    @property
    def throughput(self) -> float:
        """Items per second."""
        return 1e3 * self.items / self.median if self.median else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """The result of one candidate.

    Attributes:
        name: description of its way ("onnx[torchscript] → ort cpu, level all").
        outcome: "chosen", "slower", "wrong", "failed" or "skipped".
        reason: the reason for the outcome.
        build_seconds: duration of export and optimization; `load_seconds`: of opening the session.
        size: bytes of its files; for the eager model, of its weights.
        memory: bytes by which the process grew at its peak while the candidate was loaded and checked.
        baseline: this is the eager model as the caller passed it.
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
class RecipeResult:
    """The result of one recipe of a quantized search.

    Attributes:
        name: scheme, the backends that quantize and run it, and the fields that differ from their defaults.
        config: the recipe, as `QuantizeConfig.to_dict` returns it.
        outcome: "kept" and "broken" refer to the promise; "slow" was slower than another that keeps it;
            "failed" could not be built or run; "skipped" was not tried.
        value: the metric; `drop`: the difference by which it is worse than the eager model's.
        milliseconds: geometric mean of the medians over the workload.
        speedup: the eager model's time over its time, measured side by side.
        size: bytes of its files.
        seconds: time spent on building and evaluating it.
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
    """The loss allowed to quantization, and its measurement.

    Attributes:
        metric: name of the metric.
        baseline: the eager model's value.
        max_drop: the allowed loss as passed.
        limit: the largest allowed loss, in the metric's units.
        data: description of the data on which it is measured.
        kept: whether the chosen model is quantized and keeps the promise.
        rises: the metric is better when it is less, such as perplexity: a loss is a rise.
        noise: how far apart two values of the metric for the eager model were; None: it was computed once.
        value: the chosen model's; None: it was not computed.
    """

    metric: str
    baseline: float
    max_drop: str
    limit: float
    data: str
    kept: bool = False
    rises: bool = False
    noise: float | None = None
    value: float | None = None

    def loss(self, value: float) -> float:
        """Return by how much a value is worse than the eager model's; below zero: it is better."""
        return value - self.baseline if self.rises else self.baseline - value


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionHint:
    """Speed and error of another precision that was not asked for, measured beside the chosen candidate.

    Attributes:
        precision: "bf16" or "fp16".
        backend: the backend that would run it.
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
        """Return one line, with the argument to pass where it would be faster."""
        if self.time_ratio is None or not self.verified:
            why = "does not run" if self.error is None else f"is too far off (relative error {self.error:.1%})"
            return f"{self.precision} on {self.backend} {why}"
        error = "" if self.error is None else f" (relative error {self.error:.1%})"
        if abs(self.time_ratio - 1) < _NOISE:
            return f"{self.precision} would be no faster here: {self.time_ratio:.2f} times the time{error}"
        if self.time_ratio < 1:
            ask = f"precision={self.precision!r}"
            return f"{self.precision} would take {self.time_ratio:.2f} of the time{error}: pass {ask}"
        return f"{self.precision} would be slower here: {self.time_ratio:.2f} times the time{error}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The report of a search: the candidates tried, their times and fidelity, and the reason for the choice.

    Attributes:
        workload: the shapes that were measured.
        objective: "latency", "throughput", "size" or "energy".
        candidates: the chosen first, then by time.
        seconds: duration of the whole search.
        from_cache: it is an earlier search's report, read from the cache.
        promise: the loss allowed to quantization; None: none was asked for.
        walk: every recipe that was tried, in order.
        notes: further remarks for the user.
        fixed: axes with one length, of which the eager model takes others; `notes` say why.
        precision_hint: speed and error of another precision, if one is offered that was not asked for.
        settled: whether the choice may be remembered: nothing failed for a temporary reason, and the machine was quiet
            enough to decide which candidate is faster.
        ended_at: seconds that a budget must exceed to try more candidates than this search did; None: it left none.
        left_out: comparisons with eager of the chosen candidate for which a stated budget had too little time left.
        remembers: whether eager's outputs depend on its earlier calls, and those of the chosen candidate do not.
        minds_gradients: whether eager answers otherwise while gradients are recorded, and the chosen one does not.
        inputs_left: inputs that eager changes in place, and the chosen one leaves as they are.
        checks_left_out: places in the code where eager raises for some values, or for lengths within its ranges,
            and the chosen one does not.
    """

    model: str
    task: str
    workload: tuple[str, ...]
    candidates: tuple[CandidateResult, ...]
    objective: str = "latency"
    seconds: float = 0.0
    from_cache: bool = False
    promise: Promise | None = None
    walk: tuple[RecipeResult, ...] = ()
    notes: tuple[str, ...] = ()
    fixed: tuple[FixedAxis, ...] = ()
    precision_hint: PrecisionHint | None = None
    settled: bool = True
    ended_at: float | None = None
    left_out: tuple[str, ...] = ()
    remembers: bool = False
    minds_gradients: bool = False
    inputs_left: tuple[str, ...] = ()
    checks_left_out: tuple[str, ...] = ()

    @property
    def chosen(self) -> CandidateResult | None:
        return next((item for item in self.candidates if item.outcome == "chosen"), None)

    def times_eager(self, item: CandidateResult) -> float | None:
        """Return a candidate's speedup over eager: the geometric mean over the shapes at which both were measured, or
        the ratio of all calls' time where these were counted; None where there is none."""
        eager = next((one for one in self.candidates if one.baseline), None)
        if eager is None:
            return None
        own = {one.shape: one.median for one in item.measurements}
        both = [one for one in eager.measurements if own.get(one.shape)]
        if both and all(one.calls for one in both):
            return sum((one.calls or 0) * one.median for one in both) / sum(
                (one.calls or 0) * own[one.shape] for one in both
            )
        ratios = [one.median / own[one.shape] for one in both]
        return exp(sum(map(log, ratios)) / len(ratios)) if ratios and min(ratios) > 0 else None

    def __repr__(self) -> str:
        """Return one line: the number of candidates and the chosen one."""
        return rendering.to_line(self)

    def __str__(self) -> str:
        """Return the whole report as an aligned table, no wider than the terminal."""
        return rendering.to_text(self)

    def _repr_html_(self) -> str:
        """Return the report as HTML for a notebook."""
        return rendering.to_html(self)

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        return rendering.to_markdown(self)

    def to_svg(self) -> str:
        """Return the measured times as an SVG bar chart."""
        return rendering.to_svg(self)

    def to_json(self) -> str:
        """Return the whole report as JSON, with infinities and NaN as null."""
        return json.dumps(_finite(asdict(self)), indent=2)


def _finite(tree: Any) -> Any:
    """Return the same tree with values that JSON can represent."""
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not isfinite(tree) else tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """The beginning or end of a stage of `accelerate`, for a display of progress.

    Attributes:
        stage: "read", "describe", "reference", "export", "optimize", "quantize", "load", "verify", "evaluate",
            "measure", "calibrate", "cache" or "wait".
        detail: description of the object of the stage.
        seconds: its duration; None: it begins.
        problem: the reason why it failed; empty otherwise.
    """

    stage: str
    detail: str
    seconds: float | None = None
    problem: str = ""
