"""What a search is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optimum_core.measure import Effort
from optimum_core.measure.stopwatch import Emit
from optimum_core.measure.workload import WorkShape
from optimum_core.models.blueprint import Blueprint
from optimum_core.models.source import Source
from optimum_core.plugins import PluginManager
from optimum_core.tune.candidates import Candidate, Entry
from optimum_core.tune.stages import Builder
from optimum_core.types import Report
from optimum_core.verify import ReferenceCase


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a search needs.

    Attributes:
        entries: what competes, in the order in which it is tried.
        choosable: backends that may win; others are measured for comparison only.
        exact: a target or shapes were stated, so that a candidate of fewer varying axes is better than none.
        objective: "latency" and "throughput" choose the least time, "size" the smallest files.
        budget: seconds after which nothing further is built, once there is something true to choose; None: as long as
            the model's own slowness makes it worth.
        decided: the name of the entry that won for a model of the same shape before: alone if it is true.
        held_to: the precision whose tolerance counts, where the model itself is quantized.
    """

    source: Source
    blueprint: Blueprint
    entries: tuple[Entry, ...]
    workload: Callable[[Blueprint], tuple[WorkShape, ...]]
    builder: Builder
    plugins: PluginManager
    choosable: frozenset[str]
    exact: bool
    verify: bool = True
    objective: str = "latency"
    budget: float | None = None
    decided: str | None = None
    held_to: str | None = None
    effort: Effort = field(default_factory=Effort)
    emit: Emit = lambda event: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The winner, the whole story, the case that later checks are made with, and everything that was tried."""

    winner: Candidate
    report: Report
    check: ReferenceCase
    tried: tuple[Candidate, ...] = ()
