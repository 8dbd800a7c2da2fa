"""The error of a search that found nothing right: what was tried, why each failed, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from optimum_core.errors import ResourceError, VerificationError
from optimum_core.plan import DOUBLE
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchContext


def nothing_right(
    context: SearchContext, tried: Sequence[Candidate], able: Sequence[Candidate]
) -> VerificationError | ResourceError:
    """Return the error, with a table of what was tried.

    Args:
        able: those that could have been chosen.
    """
    who, budget = f"model {context.source.name!r}", context.budget
    rows = "\n".join(f"    {item.spec.name}: {item.reason or 'right, but not asked for'}" for item in tried)
    eager = "keep it eager (target='torch')" if context.source.format is None else "run it as before"
    transient = next((item for item in able if item.failed_transiently), None)
    if transient is not None:
        why = f"nothing could be built for a temporary reason: {transient.problem}\n{rows}"
        return ResourceError(who, why, "free room on the disk or memory, and try again; TMPDIR may name another disk")
    if not any(item.artifact is not None or item.outcome == "skipped" for item in able):
        remedy = f"{eager}, change what the exporters name, or pass another target"
        return VerificationError(who, f"none of its forms could be built:\n{rows}", remedy)
    if budget.is_exhausted and any(item.outcome == "skipped" for item in able):
        why = f"nothing that was built in {budget.spent:.0f} s agrees with the eager model:\n{rows}"
        remedy = f"to try the rest, pass a budget of more than {budget.seconds:g} s, or none; or {eager}"
        return VerificationError(who, why, remedy)
    why = f"nothing that was built agrees with the eager model:\n{rows}"
    if context.held_to == DOUBLE:
        return VerificationError(who, why, f"{eager}, pass model.float() or precision='fp32': it is in 64 bits")
    return VerificationError(who, why, f"{eager}, pass sample_inputs= like your own calls, or report this table")
