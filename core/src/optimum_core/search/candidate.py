"""A candidate: a spec with the artifact, session, fidelity, times and outcome of its trial."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from optimum_core.errors import OptimumError, ResourceError
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Artifact, CandidateResult, Fidelity, Measurement, Session, SessionRequest
from optimum_core.types.requests import concurrent
from optimum_core.verify import Run

Outcome = Literal["chosen", "slower", "wrong", "failed", "skipped"]


@dataclass(kw_only=True, slots=True)
class Candidate:
    """A spec and the results of its trial; `session` is open while it may still win.

    Attributes:
        signature: a `ModelSignature`, or the call that a saved artifact carries.
        relative_time: its time as a multiple of that of the first correct candidate, from short runs side by side.
        behind: its time, or the quantity that decides (`unit`), as a multiple of the chosen candidate's; `raced` tells
            whether that was measured to the end.
        far_behind: it was skipped as too slow to win, before it was compared.
        slower_at: shapes at which it is slower than the eager model that competes with it.
        for_comparison: it may not win, whatever its time.
        problem: the reason why it is wrong, failed or was skipped; for the chosen candidate, why it was chosen.
        request: the request that its session was opened by.
        error: the error that ended its trial.
    """

    spec: CandidateSpec
    signature: Any
    artifact: Artifact | None = None
    request: SessionRequest | None = None
    session: Session | None = None
    run: Run | None = None
    fidelity: Fidelity | None = None
    build_seconds: float | None = None
    load_seconds: float | None = None
    size: int | None = None
    memory: int | None = None
    relative_time: float = 1.0
    behind: float | None = None
    unit: str = "time"
    raced: bool = True
    slower_at: tuple[str, ...] = ()
    for_comparison: bool = False
    far_behind: bool = False
    problem: str = ""
    error: OptimumError | None = None
    outcome: Outcome = "failed"
    measurements: tuple[Measurement, ...] = field(default=())

    @property
    def failed_transiently(self) -> bool:
        """Whether it failed for a temporary reason, such as a full disk."""
        return isinstance(self.error, ResourceError)

    @property
    def is_correct(self) -> bool:
        """Whether it loaded and agrees with the eager model, however fast it is."""
        return self.run is not None and self.outcome not in ("wrong", "failed")

    @property
    def is_general(self) -> bool:
        """Whether its export holds for all values: no value-dependent branch was fixed."""
        return not self.branches

    @property
    def may_crash(self) -> bool:
        """Whether a call at other lengths or values than the traced ones may end the process."""
        return not self.is_general or getattr(self.session, "crash_prone", False)

    @property
    def branches(self) -> tuple[str, ...]:
        """Places in the model's code where values decide and the export took one side."""
        return tuple(place for step in self.artifact.steps for place in step.branches) if self.artifact else ()

    @property
    def reason(self) -> str:
        """The reason why it was chosen or not, in words."""
        if self.behind is None:
            return self.problem
        short = "" if self.raced else ", in a short run"
        parts = [f"{self.behind:.2f} times the {self.unit} of the chosen{short}", self.problem]
        if self.slower_at:
            parts.append(f"slower than eager at {', '.join(self.slower_at)}")
        if self.for_comparison:
            parts.append("for comparison only")
        return "; ".join(filter(None, parts))

    def free_axes_of_eager(self) -> None:
        """Fix no axis of the eager model that it takes several lengths of, and bound no values, which may follow these
        lengths: it refuses by itself what it does not take."""
        taken = self.signature.eager_axes
        if taken and self.artifact is not None:
            inputs = tuple(spec.unbounded(taken.get(spec.name, spec.shape)) for spec in self.artifact.inputs)
            self.artifact = replace(self.artifact, inputs=inputs)
            self.signature = replace(self.signature, fixed=())

    def close(self) -> None:
        """Close its session; its results stay."""
        if self.session is not None:
            self.session.close()
            self.session = None

    @property
    def has_ended(self) -> bool:
        """Whether its trial came to an end, right or wrong, or it was found to be too slow to win."""
        return self.outcome != "skipped" or self.far_behind

    def give_up(self, why: str, *, far_behind: bool = False) -> None:
        """Skip the rest of its trial."""
        self.close()
        self.run = None
        self.outcome, self.problem, self.far_behind = "skipped", why, far_behind

    def result(self, *, brief: bool = True) -> CandidateResult:
        """Return its entry of the report; `brief` keeps only the worst comparison, enough for one not chosen."""
        fidelity = self.fidelity
        if brief and fidelity is not None and fidelity.worst is not None:
            compared = fidelity.compared or len(fidelity.results)
            fidelity = replace(fidelity, results=(fidelity.worst,), compared=compared)
        spec = self.spec
        options = {
            "route": spec.route,
            "level": spec.level,
            "streams": concurrent(spec.streams),
            "prepared": spec.prepared or None,
            "quantized": spec.config.to_dict() if spec.config else None,
        }
        return CandidateResult(
            name=spec.name,
            backend=spec.way.backend,
            device=spec.way.device,
            precision=spec.precision,
            outcome=self.outcome,
            reason=self.reason,
            options={name: value for name, value in options.items() if value is not None},
            fidelity=fidelity,
            measurements=self.measurements,
            build_seconds=self.build_seconds,
            load_seconds=self.load_seconds,
            size=self.size,
            memory=self.memory,
            baseline=spec.is_baseline,
        )
