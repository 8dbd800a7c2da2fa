"""What earlier searches on this machine decided: who won for models of the same shape, and who wins at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optimum_core.cache import Cache, content_key

_KEPT = 16
# What differs between two fine-tunings of one architecture and does not change its speed.
_NAMES = ("_name_or_path", "name_or_path", "id2label", "label2id", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Winners:
    """Names of entries, the latest winner first."""

    names: tuple[str, ...] = ()


def shape_of(module: Any) -> dict[str, Any]:
    """What two models must share to be equally fast: class, configuration but its names, and tensors' shapes."""
    config = getattr(module, "config", None)
    described = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    return {
        "class": type(module).__qualname__,
        "file": getattr(module, "fingerprint", None),
        "config": {name: repr(value) for name, value in described.items() if name not in _NAMES},
        "tensors": [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in module.state_dict().items()],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Decisions kept in the cache, for one machine and one set of versions.

    Attributes:
        machine: hardware and versions; when one changes, all is open again.
        question: shape of the model, workload and what else was asked.
    """

    cache: Cache
    machine: Mapping[str, Any]
    question: Mapping[str, Any]

    def decided(self) -> str | None:
        """The entry that won for a model of this shape and this question."""
        kept = self.cache.read_record("decision", self._decision_key(), _Winners)
        return kept.names[0] if kept and kept.names else None

    def won_before(self) -> tuple[str, ...]:
        """Entries that won on this machine for whatever model, the latest first."""
        kept = self.cache.read_record("history", content_key(self.machine), _Winners)
        return kept.names if kept else ()

    def remember(self, name: str, *, about: str) -> None:
        """Keep a winner."""
        self.cache.write_record("decision", self._decision_key(), _Winners(names=(name,)), describe=f"{about}: {name}")
        names = tuple(dict.fromkeys((name, *self.won_before())))[:_KEPT]
        self.cache.write_record(
            "history", content_key(self.machine), _Winners(names=names), describe="who won on this machine"
        )

    def _decision_key(self) -> str:
        return content_key({"machine": dict(self.machine), "question": dict(self.question)})
