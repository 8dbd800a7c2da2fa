"""Candidates that are wrong in the same way: two exports that a runtime gets wrong alike show that the runtime is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from optimum_core.search.candidate import Candidate
from optimum_core.search.spec import CandidateSpec

#: Cases with their outputs and what is wrong there.
_Reason = tuple[tuple[str, str, str], ...]


def wrong_alike(tried: Sequence[Candidate], spec: CandidateSpec, by_values: Collection[str]) -> Candidate | None:
    """Return the second of two candidates of a spec's runtime with the same wrong values from different exports, or
    None.

    Args:
        by_values: names of the cases that show a runtime's arithmetic. At other lengths, several exports may have kept
            the same branch of the model's code, and below zero the same translation of a quotient.
    """
    seen: dict[_Reason, Candidate] = {}
    for item in tried:
        if item.outcome != "wrong" or not item.is_general or _runtime(item.spec) != _runtime(spec):
            continue
        reason = _reason(item)
        if not reason or any(case not in by_values for case, _, _ in reason):
            continue
        first = seen.setdefault(reason, item)
        if first.spec.export_key != item.spec.export_key:
            return item
    return None


def _runtime(spec: CandidateSpec) -> tuple[str, str, str]:
    return spec.way.backend, spec.way.device, spec.way.precision


def _reason(candidate: Candidate) -> _Reason:
    results = candidate.fidelity.results if candidate.fidelity is not None else ()
    return tuple((item.case, item.output, item.problem) for item in results if not item.passed)
