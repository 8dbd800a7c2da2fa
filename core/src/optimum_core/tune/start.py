"""Which unquantized model a walk starts from: the fastest that keeps the promise as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optimum_core.measure import score
from optimum_core.plan import EXACT
from optimum_core.tune.candidates import Candidate
from optimum_core.tune.judging import Court, WalkJob


def opened(job: WalkJob) -> Court:
    """The court of the job; where its unquantized winner computes in fewer bits and breaks the promise by that alone,
    of the same job with the fastest in full precision in its place."""
    court, best = Court.of(job), _exact(job)
    if best is None:
        return court
    try:
        promised = court.keeps_unquantized
    except BaseException:
        court.close()
        raise
    if promised:
        return court
    court.close()
    return Court.of(_from(job, best))


def _exact(job: WalkJob) -> Candidate | None:
    """The fastest true candidate in full precision that may win; None: the winner is in full precision, or nothing was
    promised."""
    if job.promise is None or job.floats.winner.entry.way.precision == EXACT:
        return None
    able = [
        item
        for item in job.floats.tried
        if item.entry.way.precision == EXACT
        and item.entry.way.backend in job.job.choosable
        and item.is_true
        and item.measurements
        and not item.slower_at
    ]
    return min(able, key=lambda item: score(item.measurements), default=None)


def _from(job: WalkJob, best: Candidate) -> WalkJob:
    floats, winner = job.floats, job.floats.winner
    others = [item for item in floats.tried if item is not best and item is not winner]
    measure_against(others, score(winner.measurements) / score(best.measurements))
    narrow = winner.entry.way.precision
    loser = replace(winner, outcome="wrong", problem=f"it breaks the promise, by {narrow} alone")
    why = f"fastest in {EXACT}; in {narrow} the promise is broken, unquantized as it is"
    chosen = replace(best, outcome="chosen", problem=why, behind=None)
    return replace(job, floats=replace(floats, winner=chosen, tried=(chosen, loser, *others)))


def measure_against(others: Iterable[Candidate], ratio: float) -> None:
    """Count how far others are behind from another winner, of which the one before takes `ratio` times as much."""
    for item in others:
        if item.behind is not None:
            item.behind *= ratio
