"""The unquantized model that a quantized search starts from: the fastest that keeps the promise as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optimum_core.measure import score
from optimum_core.plan import FULL_PRECISION
from optimum_core.search.candidate import Candidate
from optimum_core.search.quantized.evaluator import Evaluator, QuantizationContext


def open_evaluator(context: QuantizationContext) -> Evaluator:
    """Return the evaluator of a context; if the unquantized winner computes in fewer bits and breaks the promise by
    that alone, the fastest candidate in full precision takes its place."""
    evaluator, best = Evaluator.of(context), _fastest_in_full_precision(context)
    if best is None:
        return evaluator
    try:
        promised = evaluator.keeps_unquantized
    except BaseException:
        evaluator.close()
        raise
    if promised:
        return evaluator
    evaluator.close()
    return Evaluator.of(_starting_from(context, best))


def _fastest_in_full_precision(context: QuantizationContext) -> Candidate | None:
    """Return the fastest correct candidate in full precision that may win; None: the winner is in full precision, or
    there is no promise."""
    result = context.unquantized
    if context.promise is None or result.winner.spec.way.precision == FULL_PRECISION:
        return None
    able = [
        item
        for item in result.tried
        if item.spec.way.precision == FULL_PRECISION
        and item.spec.way.backend in context.search.choosable
        and item.is_correct
        and item.measurements
        and not item.slower_at
    ]
    return min(able, key=lambda item: score(item.measurements), default=None)


def _starting_from(context: QuantizationContext, best: Candidate) -> QuantizationContext:
    result = context.unquantized
    winner = result.winner
    others = [item for item in result.tried if item is not best and item is not winner]
    measure_against(others, score(winner.measurements) / score(best.measurements))
    narrow = winner.spec.way.precision
    loser = replace(winner, outcome="wrong", problem=f"it breaks the promise, by {narrow} alone")
    why = f"fastest in {FULL_PRECISION}; in {narrow} the promise is broken, unquantized as it is"
    chosen = replace(best, outcome="chosen", problem=why, behind=None)
    return replace(context, unquantized=replace(result, winner=chosen, tried=(chosen, loser, *others)))


def measure_against(others: Iterable[Candidate], ratio: float) -> None:
    """Rescale how far others are behind to a new winner; the previous one takes `ratio` times the new one's time."""
    for item in others:
        if item.behind is not None:
            item.behind *= ratio
