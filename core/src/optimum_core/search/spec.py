"""Candidate specs and their order: one way at one export route and one optimization level, or with one quantization
configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimum_core.plan import FULL_PRECISION, Way
from optimum_core.types import QuantizeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateSpec:
    """One candidate to try.

    Attributes:
        streams: number of calls to run side by side.
        prepared: its session is prepared for the shapes of the workload.
        config: the quantization configuration, if it is quantized.
    """

    way: Way
    route: str | None = None
    level: str | None = None
    streams: int = 1
    prepared: bool = False
    config: QuantizeConfig | None = None

    @property
    def id(self) -> str:
        """The identity of the spec as JSON: equal for equal specs, independent of the wording of reports."""
        way = self.way
        stated = {
            "backend": way.backend,
            "device": way.device,
            "precision": way.precision,
            "export": [way.exporter, way.exported, self.route],
            "transforms": [list(step) for step in way.transforms],
            "level": self.level,
            "streams": self.streams,
            "prepared": self.prepared,
            "quantized": [way.quantizer, self.config.to_dict()] if self.config else None,
        }
        return json.dumps(stated, sort_keys=True)

    @property
    def name(self) -> str:
        """The whole way in words, for reports."""
        way = self.way
        tail = "".join(
            f", {part}"
            for part in (
                way.precision if way.precision != FULL_PRECISION else "",
                f"level {self.level}" if self.level else "",
                f"{self.streams} streams" if self.streams > 1 else "",
                "prepared for the shapes" if self.prepared else "",
            )
            if part
        )
        if way.is_eager:
            return f"{way.backend} {way.device} (the model as it is){tail}"
        exported = f"{way.exported}[{self.route}]" if self.route else f"{way.exported}"
        quantized = f" → {self.config.name} by {way.quantizer}" if self.config else ""
        between = "".join(f" → {gives}" for _, takes, gives in way.transforms if gives != takes)
        return f"{exported}{quantized}{between} → {way.backend} {way.device}{tail}"

    @property
    def precision(self) -> str:
        """The precision that tolerances go by: that of the weights if they are quantized, else of the arithmetic."""
        return self.config.precision if self.config else self.way.precision

    @property
    def cost(self) -> float:
        """Least seconds of budget that must be left: compiling an eager model anew for every shape takes long."""
        return 60.0 if self.way.is_eager and self.level is not None else 0.0

    @property
    def is_baseline(self) -> bool:
        """Whether this is the eager model as it was given."""
        return self.way.is_eager and self.level is None and self.way.precision == FULL_PRECISION and self.streams == 1

    def opens_same_files(self, other: CandidateSpec) -> bool:
        """Whether two specs open the same files, apart from the level of optimization."""
        alike = self.export_key == other.export_key and not self.way.is_eager
        return alike and self.way.transforms == other.way.transforms and self.way.backend == other.way.backend

    @property
    def export_key(self) -> tuple[str | None, ...]:
        """The key that all specs with the same export share."""
        return self.way.exporter, self.way.exported, self.route


def streams_of(objective: str, usable_cores: int) -> tuple[int, ...]:
    """Return the numbers of calls side by side that compete: with the objective "throughput", one for each core too."""
    return (1, max(2, usable_cores)) if objective == "throughput" else (1,)


def specs_of(
    ways: Sequence[Way],
    *,
    streams: Sequence[int] = (1,),
    won_before: Sequence[str] = (),
    stated: bool = False,
) -> list[CandidateSpec]:
    """Return every spec that the ways allow, the likeliest to win first.

    The order: winners of earlier searches on this machine; then first routes before second ones, lower precision before
    full, levels in the order of their offer. If the shapes were `stated`, sessions prepared for them follow. Levels of
    an eager model come last: they take long to build.

    Args:
        won_before: `CandidateSpec.id` of earlier winners, the latest first.
    """
    found = [
        CandidateSpec(way=way, route=route, level=level, streams=count, prepared=prepared)
        for way in ways
        for route in way.routes
        for level in way.levels
        for count in (streams if way.parallel else (1,))
        for prepared in ((False, True) if stated and way.prepares else (False,))
    ]
    ranks = {spec_id: rank for rank, spec_id in enumerate(won_before)}

    def key(spec: CandidateSpec) -> tuple[Any, ...]:
        way = spec.way
        return (
            not spec.is_baseline,
            ranks.get(spec.id, len(ranks)) if ranks else 0,
            way.is_eager and spec.level is not None,
            spec.prepared,
            way.routes.index(spec.route),
            way.precision == FULL_PRECISION,
            way.levels.index(spec.level),
            -spec.streams,
            way.backend,
            way.device,
        )

    return sorted(found, key=key)
