"""Input and result of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optimum_core.measure import Effort
from optimum_core.measure.stopwatch import Emit
from optimum_core.measure.workload import WorkShape
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.plugins import PluginManager
from optimum_core.search.budget import Budget
from optimum_core.search.builder import Builder
from optimum_core.search.candidate import Candidate
from optimum_core.search.history import Decided
from optimum_core.search.references import References
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import TrialRunner
from optimum_core.types import Report
from optimum_core.verify import ReferenceCase


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchContext:
    """The input of a search.

    Attributes:
        specs: the specs that compete, in the order in which they are tried.
        other_precisions: specs that compute in fewer bits than requested: measured for comparison only.
        choosable: backends that may win; others are measured for comparison only.
        may_restrict: a target or shapes were stated, so that a candidate of fewer varying axes is better than none.
        objective: "latency" and "throughput" choose the least time, "size" the smallest files, "energy" the fewest
            joules.
        budget: once it is spent and a correct candidate exists, nothing further is built.
        decided: what won for a model of the same shape before; if still correct, no other is tried.
        held_to: the precision whose tolerance applies, if the model itself is quantized, a graph in 16 bits, or a
            model in 64.
        references: eager's answers, which several searches share.
    """

    source: Source
    signature: ModelSignature
    specs: tuple[CandidateSpec, ...]
    workload: Callable[[ModelSignature], tuple[WorkShape, ...]]
    builder: Builder
    plugins: PluginManager
    choosable: frozenset[str]
    may_restrict: bool
    budget: Budget
    references: References
    other_precisions: tuple[CandidateSpec, ...] = ()
    verify: bool = True
    objective: str = "latency"
    decided: Decided | None = None
    held_to: str | None = None
    usable_cores: int = 1
    effort: Effort = field(default_factory=Effort)
    emit: Emit = lambda event: None

    @property
    def trials(self) -> TrialRunner:
        """The runner of trials for this context's candidates."""
        return TrialRunner(
            plugins=self.plugins, builder=self.builder, workload=self.workload, emit=self.emit, verify=self.verify,
            held_to=self.held_to,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The winner, the report, the case for later checks, and all candidates that were tried."""

    winner: Candidate
    report: Report
    check: ReferenceCase
    tried: tuple[Candidate, ...] = ()
