"""Decisions of earlier searches on this machine: the winner for models of the same shape, and all recent winners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimum_core.cache import Cache, content_key
from optimum_core.models.weights import state_tensors
from optimum_core.search.spec import CandidateSpec

_KEPT = 16
# Settings that differ between two fine-tunings of one architecture and do not change its speed.
_NAMES = ("_name_or_path", "name_or_path", "id2label", "label2id", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Winners:
    """The `CandidateSpec.id` of winners, the latest first."""

    ids: tuple[str, ...] = ()


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

    def decided(self) -> str | None:
        """Return the `CandidateSpec.id` that won for a model of this shape and this request, or None."""
        kept = self.cache.read_record("decision", self._decision_key(), _Winners)
        return kept.ids[0] if kept and kept.ids else None

    def won_before(self) -> tuple[str, ...]:
        """Return the `CandidateSpec.id` of specs that won on this machine for any model, the latest first."""
        kept = self.cache.read_record("history", content_key(self.machine), _Winners)
        return kept.ids if kept else ()

    def remember(self, spec: CandidateSpec, *, about: str) -> None:
        """Store a winner."""
        words = f"{about}: {spec.name}"
        self.cache.write_record("decision", self._decision_key(), _Winners(ids=(spec.id,)), describe=words)
        ids = tuple(dict.fromkeys((spec.id, *self.won_before())))[:_KEPT]
        self.cache.write_record(
            "history", content_key(self.machine), _Winners(ids=ids), describe="winners on this machine"
        )

    def _decision_key(self) -> str:
        return content_key({"machine": dict(self.machine), "question": dict(self.question)})
