"""Decisions of earlier searches on this machine: the winner for models of the same shape, and all recent winners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimum_core.cache import Cache, content_key
from optimum_core.models.weights import state_tensors
from optimum_core.search.budget import is_longer
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Report

_KEPT = 16
# Settings that differ between two fine-tunings of one architecture and do not change its speed.
_NAMES = ("_name_or_path", "name_or_path", "id2label", "label2id", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Winners:
    """The `CandidateSpec.id` of winners, the latest first; and `Report.ended_at` of the search for a single one."""

    ids: tuple[str, ...] = ()
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """The decision of an earlier search for a model of the same shape.

    Attributes:
        spec: the `CandidateSpec.id` of the winner.
        ended_at: `Report.ended_at` of that search.
    """

    spec: str
    ended_at: float | None = None


def shape_of(module: Any) -> dict[str, Any]:
    """Return what two models must share to be equally fast: class, configuration but its names, and tensors' shapes."""
    config = getattr(module, "config", None)
    described = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    return {
        "class": type(module).__qualname__,
        "file": getattr(module, "fingerprint", None),
        "config": {name: repr(value) for name, value in described.items() if name not in _NAMES},
        "tensors": [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in state_tensors(module).items()],
    }


def why_again(report: Report | None, budget: float | None) -> str:
    """Return why a search is done again although its result was kept; empty: it is not.

    Args:
        budget: seconds, where they were stated.
    """
    if report is not None and not report.settled:
        return "it was decided on a busy or full machine: it is done again"
    if report is not None and is_longer(budget, report.ended_at):
        return "a search with less time left candidates untried: it is done again"
    if report is not None and report.left_out and budget is None:
        return "a search with a budget left out comparisons with eager: it is done again"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Decisions stored in the cache, for one machine and one set of versions.

    Attributes:
        machine: hardware and versions; a change of either invalidates all decisions.
        question: shape of the model, workload and the other options of the request.
    """

    cache: Cache
    machine: Mapping[str, Any]
    question: Mapping[str, Any]

    def decided(self, budget: float | None = None) -> Decided | None:
        """Return the decision for a model of this shape and this request, or None: there is none, or that search left
        candidates untried for which this one has the time.

        Args:
            budget: seconds, where they were stated.
        """
        kept = self.cache.read_record("decision", self._decision_key(), _Winners)
        if not (kept and kept.ids) or is_longer(budget, kept.ended_at):
            return None
        return Decided(spec=kept.ids[0], ended_at=kept.ended_at)

    def won_before(self) -> tuple[str, ...]:
        """Return the `CandidateSpec.id` of specs that won on this machine for any model, the latest first."""
        kept = self.cache.read_record("history", content_key(self.machine), _Winners)
        return kept.ids if kept else ()

    def remember(self, spec: CandidateSpec, *, about: str, ended_at: float | None = None) -> None:
        """Store a winner, with `Report.ended_at` of its search."""
        words = f"{about}: {spec.name}"
        self.cache.write_record(
            "decision", self._decision_key(), _Winners(ids=(spec.id,), ended_at=ended_at), describe=words
        )
        ids = tuple(dict.fromkeys((spec.id, *self.won_before())))[:_KEPT]
        self.cache.write_record(
            "history", content_key(self.machine), _Winners(ids=ids), describe="winners on this machine"
        )

    def _decision_key(self) -> str:
        return content_key({"machine": dict(self.machine), "question": dict(self.question)})
