"""What was found out about candidates: how true, how fast, which won. Times are in milliseconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
    """

    case: str
    shapes: Mapping[str, tuple[int, ...]]
    output: str
    relative_error: float
    cosine: float
    agreement: float | None
    passed: bool
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """All that was compared, and the tolerance it was held to."""

    precision: str
    tolerance: float
    results: tuple[CaseResult, ...]
    level: Literal["device", "graph"] = "device"

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def worst(self) -> CaseResult | None:
        """The result furthest from eager."""
        return max(self.results, key=lambda result: (not result.passed, result.relative_error), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Latency of one candidate at one shape of the workload."""

    shape: str
    median: float
    p95: float
    runs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateResult:
    """One way that was tried.

    Attributes:
        name: the way in words ("onnx[torchscript] → ort cpu, level all").
        outcome: "chosen", "slower", "wrong", "failed" or "skipped".
        reason: why it has that outcome.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was tried, what each cost, how true each is, and why this one."""

    model: str
    task: str
    workload: tuple[str, ...]
    candidates: tuple[CandidateResult, ...]
    from_cache: bool = False

    @property
    def chosen(self) -> CandidateResult | None:
        return next((item for item in self.candidates if item.outcome == "chosen"), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that `accelerate` is doing or has done, for whoever shows progress.

    Attributes:
        stage: "read", "describe", "reference", "export", "optimize", "load", "verify", "measure", "cache" or "wait".
        detail: on what, in words.
        seconds: how long it took; None: it begins.
        problem: why it failed; empty otherwise.
    """

    stage: str
    detail: str
    seconds: float | None = None
    problem: str = ""
