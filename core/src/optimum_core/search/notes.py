"""Notes of a report on what limits a decision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.search.candidate import Candidate
from optimum_core.search.race import Decision
from optimum_core.search.standing import Standing
from optimum_core.types import AxisRange
from optimum_core.types.tensors import places_of


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


def length_limits(model: ModelSignature, chosen: ModelSignature) -> Iterator[str]:
    """Yield which lengths the chosen form refuses though the model takes them, and why.

    Args:
        model, chosen: the signature of the model, and that under which the chosen candidate was found right.
    """
    places = places_of((spec.name, spec.shape) for spec in chosen.inputs)
    for axis, found in chosen.ranges.items():
        own, place = model.ranges.get(axis, AxisRange()), places.get(axis, axis)
        if found.greatest is not None and (own.greatest is None or found.greatest < own.greatest):
            yield f"{place} takes lengths up to {found.greatest}: {found.why}"
        if found.least > own.least:
            yield f"{place} takes lengths from {found.least}: {found.why_least}"


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
