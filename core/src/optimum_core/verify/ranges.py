"""Ranges of axis lengths: those at which a model was compared with the eager model, and those at which a candidate was
correct."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import AxisRange, Fidelity
from optimum_core.verify.comparison import ReferenceCase


def proved(
    signature: ModelSignature, cases: tuple[ReferenceCase, ...], left_out: Sequence[Case] = ()
) -> Mapping[str, AxisRange]:
    """Return the ranges of a signature's axes, each with the shortest and the longest length among the cases.

    If the configuration names a length beyond the longest at which the model may compute otherwise, longer calls are
    refused: nothing was compared there. So are calls beyond a switch after which no case was compared before the next,
    because there was no time for it.

    Args:
        left_out: the cases for which there was no time.
    """
    found: dict[str, AxisRange] = {}
    for axis in signature.axes:
        lengths = [case.lengths[axis] for case in cases if axis in case.lengths]
        known = signature.ranges.get(axis, AxisRange())
        if lengths:
            missed = {case.lengths[axis] for case in left_out if axis in case.lengths}
            lengths = [*_before_gap(signature, axis, lengths, missed)]
            known = _bounded(signature, axis, replace(known, proved=(min(lengths), max(lengths))))
        found[axis] = known
    return found


def _before_gap(signature: ModelSignature, axis: str, lengths: list[int], missed: set[int]) -> Iterator[int]:
    """Yield the lengths up to the first switch after which, before the next, lengths were missed and none compared."""
    here = signature.layout.lengths[axis]
    turns = sorted({turn for turn in signature.switches.get(axis, ()) if turn >= here})
    ends = [*turns[1:], math.inf]
    for turn, end in zip(turns, ends, strict=False):
        if not any(turn < length <= end for length in lengths) and any(turn < length <= end for length in missed):
            yield from (length for length in lengths if length <= turn)
            return
    yield from lengths


def _bounded(signature: ModelSignature, axis: str, known: AxisRange) -> AxisRange:
    longest = known.proved[1] if known.proved is not None else 0
    switch = min((length for length in signature.switches.get(axis, ()) if length >= longest), default=None)
    if switch is None or (known.greatest is not None and known.greatest <= switch):
        return known
    why = f"beyond {switch} it may compute otherwise, by its configuration or code, and nothing was compared there"
    return replace(known, greatest=switch, why=why)


def right_up_to(
    fidelity: Fidelity, cases: tuple[ReferenceCase, ...], traced: Mapping[str, int]
) -> Mapping[str, tuple[int, int]]:
    """Return for each failing axis the range of lengths around the traced one at which a candidate was correct.

    Within these ranges, every case passed. Of axes that fail together, each ends before the length at which they do,
    unless that lies next to the traced one. The result is empty if a failure remains: axes must be fixed then.

    Args:
        traced: by axis, the traced length.
    """

    def nearness(case: ReferenceCase) -> tuple[int, float]:
        return len(case.varied), sum(abs(math.log(case.lengths[axis] / traced[axis])) for axis in case.varied)

    wrong = {result.case for result in fidelity.results if not result.passed}
    failing = sorted((case for case in cases if case.name in wrong), key=nearness)
    bad: dict[str, set[int]] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for case in failing:
        for axis in case.varied if _is_within(case, ranges) else ():
            ends = {*bad.get(axis, ()), case.lengths[axis]}
            least, most = _right_around(axis, ends, traced[axis], cases, wrong)
            if least < traced[axis] < most:
                bad[axis], ranges[axis] = ends, (least, most)
    return {} if any(_is_within(case, ranges) for case in failing) else ranges


def _is_within(case: ReferenceCase, ranges: Mapping[str, tuple[int, int]]) -> bool:
    return all(least <= case.lengths.get(axis, least) <= greatest for axis, (least, greatest) in ranges.items())


def _right_around(
    axis: str, bad: set[int], here: int, cases: tuple[ReferenceCase, ...], wrong: set[str]
) -> tuple[int, int]:
    above = min((length for length in bad if length > here), default=None)
    below = max((length for length in bad if length < here), default=0)
    lengths = [case.lengths[axis] for case in cases if case.name not in wrong and axis in case.lengths]
    right = [length for length in lengths if length > below and (above is None or length < above)]
    return min(right, default=here), max(right, default=here)
