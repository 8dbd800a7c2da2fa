"""Cases at lengths between those that are compared in any case, as many as a little time allows.

A model may compute otherwise at lengths that no comparison of sizes shows, such as those that make a tensor of a length
and look at its values. Where eager is quick, a great part of the lengths that are called proved is compared then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.axes import LONG
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.verify.comparison import ReferenceCase
from optimum_core.verify.ranges import proved
from optimum_core.verify.reference import run_case

log = logging.getLogger(__name__)

#: Most lengths of one axis, and most of all axes together.
MOST_TRIALS = 100
#: Seconds of eager where each call takes no longer than `_QUICK`; otherwise, a share of what the other cases took.
_QUICKLY = 0.1
_QUICK = 0.002
_SHARE = 0.15
_SEED = 600
#: Fraction of a range by which each length follows the one before: any first few are spread evenly.
_GOLDEN = 0.618034


def cases_between(
    module: Any, signature: ModelSignature, cases: Sequence[ReferenceCase], seconds: float
) -> tuple[ReferenceCase, ...]:
    """Return further cases with the eager model's outputs, as many as it answers in a moment.

    Args:
        cases: those that are compared in any case.
        seconds: those that eager took for them.
    """
    found: list[ReferenceCase] = []
    names, start, busy = {case.name for case in cases}, time.perf_counter(), time.process_time()
    for number, lengths in enumerate(_lengths(signature, cases)):
        # On a busy machine, wall-clock time says little; with several threads, CPU time says little. So the lesser.
        spent = min(time.perf_counter() - start, time.process_time() - busy)
        if spent > (_QUICKLY if spent < _QUICK * len(found) else _SHARE * seconds):
            break
        name = " and ".join(f"{axis} {length}" for axis, length in lengths.items())
        if name in names:
            continue
        try:
            found.append(run_case(module, signature, Case(name=name, lengths=lengths, seed=_SEED + number)))
        except Exception as error:  # noqa: BLE001 - the eager model refuses this call, by an error of any type
            log.info("%s is left out: eager refuses it: %r", name, error)
        names.add(name)
    return tuple(found)


def _lengths(signature: ModelSignature, cases: Sequence[ReferenceCase]) -> Iterator[Mapping[str, int]]:
    """Yield lengths of each axis alone and of all axes, in turn."""
    spans = {}
    for axis, known in proved(signature, tuple(cases)).items():
        here = signature.layout.lengths[axis]
        least, longest = known.proved or (here, here)
        spans[axis] = range(least, max(min(longest, LONG), here) + 1)
    draw = np.random.default_rng(_SEED)
    alone = _alone(spans, {axis: {case.lengths.get(axis) for case in cases} for axis in spans})
    for _ in range(MOST_TRIALS):
        if (one := next(alone, None)) is not None:
            yield one
        if len(spans) > 1:  # short ones more often than long ones, whose product takes time
            yield {axis: round(np.exp(draw.uniform(*np.log([span[0], span[-1]])))) for axis, span in spans.items()}


def _alone(spans: Mapping[str, range], done: Mapping[str, Collection[int | None]]) -> Iterator[Mapping[str, int]]:
    spread = {axis: _spread(span) for axis, span in spans.items()}
    while spread:
        for axis in list(spread):
            length = next((length for length in spread[axis] if length not in done[axis]), None)
            if length is None:
                del spread[axis]
            else:
                yield {axis: length}


def _spread(span: range) -> Iterator[int]:
    """Yield the numbers of a range, each far from those before it: every other one by its logarithm, since what is
    wrong in a few places shows most where there are few."""
    least, longest = np.log(span[0]), np.log(span[-1])
    linear = iter(sorted(span, key=lambda number: (number - span[0]) * _GOLDEN % 1))
    done: set[int] = set()
    for place in range(len(span)):
        by_size = round(np.exp(least + place * _GOLDEN % 1 * (longest - least)))
        for number in (by_size, next(linear)):
            if number not in done:
                done.add(number)
                yield number
