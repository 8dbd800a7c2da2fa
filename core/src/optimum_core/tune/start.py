"""Which unquantized model a walk starts from: the fastest that keeps the promise as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optimum_core.measure import score
from optimum_core.plan import EXACT
from optimum_core.tune.candidates import Candidate
from optimum_core.tune.judging import Court, WalkJob


def start_of(job: WalkJob) -> WalkJob:
    """The job; where its unquantized winner computes in fewer bits and breaks the promise by that alone, the same job
    with the fastest in full precision in its place."""
    best = _exact(job)
    if best is None:
        return job
    court = Court.of(job)
    try:
        return job if court.keeps_unquantized else _from(job, best)
    finally:
        court.close()


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
    tell_again(others, score(winner.measurements) / score(best.measurements))
    narrow = winner.entry.way.precision
    loser = replace(winner, outcome="wrong", problem=f"it breaks the promise, by {narrow} alone")
    why = f"fastest in {EXACT}; in {narrow} the promise is broken, unquantized as it is"
    chosen = replace(best, outcome="chosen", problem=why, behind=None)
    return replace(job, floats=replace(floats, winner=chosen, tried=(chosen, loser, *others)))


def tell_again(others: Iterable[Candidate], ratio: float) -> None:
    """Say again how far behind they are, of another winner: the one before takes `ratio` times as much."""
    for item in others:
        if item.behind is not None:
            item.problem = item.problem.replace(f"{item.behind:.2f}", f"{item.behind * ratio:.2f}", 1)
            item.behind *= ratio
