"""What competes: one way at one export route and one optimization level, or by one recipe of quantization; and in which
order they are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optimum_core.models.blueprint import Blueprint
from optimum_core.plan import EXACT, Way
from optimum_core.types import Artifact, CandidateResult, Fidelity, Measurement, QuantizeConfig, Session

Outcome = Literal["chosen", "slower", "wrong", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing to try.

    Attributes:
        streams: calls that it is to run side by side.
        prepared: its session is told the shapes of the workload.
        config: by which it is quantized, where it is.
    """

    way: Way
    route: str | None = None
    level: str | None = None
    streams: int = 1
    prepared: bool = False
    config: QuantizeConfig | None = None

    @property
    def name(self) -> str:
        """The whole way in words: unlike any other's."""
        way = self.way
        tail = "".join(
            f", {part}"
            for part in (
                way.precision if way.precision != EXACT else "",
                f"level {self.level}" if self.level else "",
                f"{self.streams} streams" if self.streams > 1 else "",
                "prepared for the shapes" if self.prepared else "",
            )
            if part
        )
        if way.is_live:
            return f"{way.backend} {way.device} (the model as it is){tail}"
        exported = f"{way.exported}[{self.route}]" if self.route else f"{way.exported}"
        quantized = f" → {self.config.name} by {way.quantizer}" if self.config else ""
        between = "".join(f" → {gives}" for _, takes, gives in way.transforms if gives != takes)
        return f"{exported}{quantized}{between} → {way.backend} {way.device}{tail}"

    @property
    def precision(self) -> str:
        """Of the weights where they are quantized, of the arithmetic otherwise: what tolerances go by."""
        return self.config.weights.removeprefix("u") if self.config else self.way.precision

    @property
    def cost(self) -> float:
        """Seconds of budget that it should find left: compiling a live model anew for every shape takes long."""
        return 60.0 if self.way.is_live and self.level is not None else 0.0

    @property
    def is_baseline(self) -> bool:
        """The eager model as its user has it."""
        return self.way.is_live and self.level is None and self.way.precision == EXACT and self.streams == 1


def entries(
    ways: Sequence[Way],
    *,
    streams: Sequence[int] = (1,),
    won_before: Sequence[str] = (),
    stated: bool = False,
) -> list[Entry]:
    """Everything that the ways allow, the likeliest to win first.

    Winners of earlier searches on this machine lead; then first routes before second ones, lower precision before
    full, levels in the order of their offer. Where the shapes were `stated`, sessions prepared for them follow.
    A live model's levels come last: they take long to build.
    """
    found = [
        Entry(way=way, route=route, level=level, streams=count, prepared=prepared)
        for way in ways
        for route in way.routes
        for level in way.levels
        for count in (streams if way.parallel else (1,))
        for prepared in ((False, True) if stated and way.prepares else (False,))
    ]
    ranks = {name: rank for rank, name in enumerate(won_before)}

    def key(entry: Entry) -> tuple[Any, ...]:
        way = entry.way
        return (
            not entry.is_baseline,
            ranks.get(entry.name, len(ranks)),
            way.is_live and entry.level is not None,
            entry.prepared,
            way.routes.index(entry.route),
            way.precision == EXACT,
            way.levels.index(entry.level),
            -entry.streams,
            way.backend,
            way.device,
        )

    return sorted(found, key=key)


@dataclass(kw_only=True, slots=True)
class Candidate:
    """An entry, built; `session` is open while it may still win.

    Attributes:
        behind: its time, or the size that decides, as a multiple of the chosen's: `problem` then says the rest.
        slower_at: shapes at which it is slower than the eager model that competes with it.
        pace: its time as a multiple of the first true candidate's, from short runs side by side.
    """

    entry: Entry
    blueprint: Blueprint
    artifact: Artifact | None = None
    session: Session | None = None
    run: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    fidelity: Fidelity | None = None
    build_seconds: float | None = None
    load_seconds: float | None = None
    size: int | None = None
    memory: int | None = None
    pace: float = 1.0
    behind: float | None = None
    slower_at: tuple[str, ...] = ()
    problem: str = ""
    outcome: Outcome = "failed"
    measurements: tuple[Measurement, ...] = field(default=())

    @property
    def is_true(self) -> bool:
        """Whether it loaded and agreed with eager, however fast it is."""
        return self.run is not None and self.outcome not in ("wrong", "failed")

    @property
    def reason(self) -> str:
        """Why it was chosen or not, in words."""
        return self.problem if self.behind is None else f"{self.behind:.2f} {self.problem}"

    def close(self) -> None:
        """Free its session; its results stay."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def result(self, *, brief: bool = True) -> CandidateResult:
        """What the report says of it; of one that was not chosen, the worst comparison says enough."""
        fidelity = self.fidelity
        if brief and fidelity is not None and fidelity.worst is not None:
            fidelity = Fidelity(
                precision=fidelity.precision,
                tolerance=fidelity.tolerance,
                results=(fidelity.worst,),
                level=fidelity.level,
                compared=fidelity.compared or len(fidelity.results),
                formed=fidelity.formed,
            )
        entry = self.entry
        options = {
            "route": entry.route,
            "level": entry.level,
            "streams": entry.streams if entry.streams > 1 else None,
            "prepared": entry.prepared or None,
            "quantized": entry.config.to_dict() if entry.config else None,
        }
        return CandidateResult(
            name=entry.name,
            backend=entry.way.backend,
            device=entry.way.device,
            precision=entry.precision,
            outcome=self.outcome,
            reason=self.reason,
            options={name: value for name, value in options.items() if value is not None},
            fidelity=fidelity,
            measurements=self.measurements,
            build_seconds=self.build_seconds,
            load_seconds=self.load_seconds,
            size=self.size,
            memory=self.memory,
            baseline=entry.is_baseline,
        )
