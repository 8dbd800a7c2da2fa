"""Notes of a report on what limits a decision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_core.search.candidate import Candidate
from optimum_core.search.race import Decision
from optimum_core.search.standing import Standing


def fixed_to_one_side(candidate: Candidate) -> str:
    """Return where a candidate's export took one side of a condition on values."""
    places = ", ".join(candidate.branches[:3])
    return f"values decide at {places}, and its export took one side for all of them"


def ended_without(seconds: float, standing: Standing) -> Iterator[str]:
    """Yield that a stated budget ended before anything was right, so that eager is returned, if it did.

    Args:
        seconds: the budget.
    """
    if not standing.ended_before_anything_was_right:
        return
    if standing.built:
        yield f"nothing that was built within the budget of {seconds:g} s agrees with eager, which is returned"
    else:
        yield f"the budget of {seconds:g} s ended before anything was built: eager is returned"


def left_out_words(seconds: float, left_out: Sequence[str]) -> Iterator[str]:
    """Yield which comparisons a stated budget left out, if any.

    Args:
        seconds: the budget.
        left_out: `Report.left_out`.
    """
    if left_out:
        yield (
            f"the budget of {seconds:g} s left out comparisons with eager at {', '.join(left_out)}: calls beyond the "
            "lengths that were compared warn, or are refused; a longer budget, or none, compares these as well"
        )


def limits_of(decision: Decision, transient: Sequence[Candidate]) -> Iterator[str]:
    """Yield what the winner is not, how rough its figures are, and what failed for a temporary reason."""
    winner = decision.winner
    yield from winner.fidelity.notes if winner.fidelity is not None else ()
    yield from (axis.note for axis in winner.signature.fixed)
    if not winner.is_general:
        yield f"NOT right for all values: {fixed_to_one_side(winner)}"
    if not decision.in_full:
        yield "the budget was spent before the last measurement: short runs decided, and figures are rough"
    if decision.disturbance:
        rough = "figures are rough"
        kept = rough if decision.settled else "the choice is not sure, and will be made anew at the next call"
        yield f"the machine was busy while candidates were timed: {decision.disturbance}; {kept}"
    for item in transient:
        yield f"{item.spec.name} failed for a temporary reason, and is tried again at the next call: {item.problem}"
