"""The precision hint: the gain that 16 bits would bring if they were allowed, measured beside the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimum_core.errors import OptimumError
from optimum_core.measure import Effort
from optimum_core.measure.stopwatch import watched
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.trial import failing
from optimum_core.types import PrecisionHint
from optimum_core.verify import ReferenceCase

_EFFORT = Effort(rounds=3, seconds=0.1, hopeless=math.inf)
#: Seconds that must be left for the hint if no budget is stated.
_LEAST_SECONDS = 2.0


def hint(context: SearchContext, winner: Candidate, cases: tuple[ReferenceCase, ...]) -> PrecisionHint | None:
    """Measure the most promising candidate in fewer bits than requested; None if none is offered or time is short.

    Args:
        winner: its session is open.
        cases: reference outputs of the eager model, in 32 bits.
    """
    spec = _likeliest(context.other_precisions, winner)
    budget = context.budget
    if spec is None or winner.session is None or budget.left < _LEAST_SECONDS or not budget.allows(spec):
        return None
    candidate = Candidate(spec=spec, signature=winner.signature)
    with watched(context.emit, "measure", f"{spec.name}, for comparison only"):
        _try(context, candidate, winner, cases)
    worst = candidate.fidelity.worst if candidate.fidelity is not None else None
    timed = candidate.is_correct and candidate.measurements
    return PrecisionHint(
        precision=spec.way.precision,
        backend=spec.way.backend,
        time_ratio=candidate.relative_time if timed else None,
        error=worst.relative_error if worst is not None and math.isfinite(worst.relative_error) else None,
        verified=candidate.is_correct,
    )


def _likeliest(specs: Sequence[CandidateSpec], winner: Candidate) -> CandidateSpec | None:
    """Return the spec that differs from the winner in precision alone, else one on its backend, else the first."""
    way = winner.spec.way

    def distance(spec: CandidateSpec) -> tuple[bool, ...]:
        other = spec.way
        return (
            other.backend != way.backend or other.device != way.device,
            other.format != way.format or spec.route != winner.spec.route,
            spec.level != winner.spec.level,
            spec.prepared != winner.spec.prepared,
        )

    return min(specs, key=distance, default=None)


def _try(context: SearchContext, candidate: Candidate, winner: Candidate, cases: tuple[ReferenceCase, ...]) -> None:
    trials, measured = context.trials, winner.measurements
    try:
        with failing(candidate):
            trials.build(candidate)
            trials.open(candidate)
            trials.compare(candidate, context.references.taken(candidate.session, candidate.signature, cases))
            if candidate.is_correct:
                trials.time([winner, candidate], _EFFORT)
                candidate.relative_time = _ratio(candidate, winner)
    except OptimumError:
        return  # the candidate was not requested, so its failure is not reported
    finally:
        winner.measurements = measured
        candidate.close()


def _ratio(candidate: Candidate, winner: Candidate) -> float:
    pairs = zip(candidate.measurements, winner.measurements, strict=True)
    return math.exp(sum(math.log(one.median / other.median) for one, other in pairs) / len(winner.measurements))
