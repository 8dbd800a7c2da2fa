"""Cases with values at edges, where an answer may not be a number: a mask that leaves nothing, a row of zeros, equal
values. Eager's NaN is an answer as well, and a candidate has to give it where eager does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optimum_core.models.eager.bounded_calls import outputs_unwatched
from optimum_core.models.eager.rounding_noise import outputs_with_noise
from optimum_core.models.inputs.layouts import PICTURE
from optimum_core.models.inputs.samples import Case
from optimum_core.models.multimodal.towers import TowerModule, has_empty_row
from optimum_core.models.signatures.edge_values import (
    all_alike,
    floats_of_any_size,
    halves,
    in_runs,
    of_one_sign,
    other_numbers,
    rows_without,
)
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import AxisRange
from optimum_core.types.arrays import ArrayMapping, NDArray
from optimum_core.types.tensors import is_batch
from optimum_core.verify.comparison import MakeCase, ReferenceCase, sensitive_outputs

log = logging.getLogger(__name__)

HALVES = "floats in halves, some equal, and a row of zeros"
LONG_HALVES = f"{HALVES}, longer"
ONE_SIGN = {1: "floats all above zero", -1: "floats all below zero"}
#: The least length of each axis there: torch keeps the order of equal values up to 16, and need not beyond.
_BEYOND_STABLE = 40
_SWITCHES, _NOTHING, _NUMBERS, _RUNS = 91, 92, 94, 95


@dataclass(frozen=True, slots=True)
class _Call:
    """A call to compare.

    Attributes:
        numbers: it is left out where the eager model's answer is no number, for it lies outside of the samples' range.
    """

    name: str
    inputs: ArrayMapping
    numbers: bool = False


def edge_cases(module: Any, signature: ModelSignature, make_case: MakeCase) -> Iterator[ReferenceCase]:
    """Yield the cases that the eager model takes, and whose NaN and infinity rounding does not move.

    Args:
        make_case: makes the case of a name, inputs and outputs.
    """
    for made in _calls(module, signature):
        if isinstance(module, TowerModule) and has_empty_row(made.inputs):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of a deviation of nothing
                found = make_case(made.name, made.inputs, outputs_unwatched(module, made.inputs))
                otherwise = outputs_with_noise(module, made.inputs)
        except Exception as error:  # noqa: BLE001 - the eager model refuses such values, by an error of any type
            log.info("%s is left out: eager refuses it: %r", made.name, error)
            continue
        floats = [(want, otherwise[name]) for name, want in found.outputs.items() if want.dtype.kind == "f"]
        if made.numbers and not all(np.isfinite(want).all() for want, _ in floats):
            continue
        if not all(_same_numbers(*pair) for pair in floats):
            log.info("%s is left out: rounding decides where eager gives numbers", made.name)
            continue
        yield replace(found, sensitive=sensitive_outputs(found, otherwise), large=made.name in (HALVES, LONG_HALVES))


def _calls(module: Any, signature: ModelSignature) -> Iterator[_Call]:
    for name, lengths in {HALVES: {}, LONG_HALVES: _longer(signature)}.items():
        case = Case(name=name, lengths=lengths, padding="none", seed=96)
        if (name == HALVES or lengths) and (inputs := halves(module, signature, case)) is not None:
            drawn = signature.draw(case)
            beyond = any((drawn[name] > 0).all() for name in floats_of_any_size(module, signature))
            yield _Call(name, inputs, numbers=beyond)
    for sign, name in ONE_SIGN.items():
        inputs = of_one_sign(module, signature, Case(name=name, padding="none", seed=93), sign)
        if inputs is not None:
            yield _Call(name, inputs)
    for words, inputs in all_alike(module, signature, Case(name="", padding="none", seed=_SWITCHES)):
        yield _Call(words, inputs)
    for words, inputs in in_runs(module, signature, Case(name="", padding="none", seed=_RUNS)):
        yield _Call(words, inputs)
    for words, inputs in other_numbers(module, signature, Case(name="", padding="none", seed=_NUMBERS)):
        yield _Call(words, inputs)
    for words, inputs in rows_without(signature, Case(name="", padding="none", seed=_NOTHING)):
        yield _Call(words, inputs)


def _longer(signature: ModelSignature) -> dict[str, int]:
    """Return greater lengths of the axes that may have such; rows and the edges of pictures stay as they are."""
    found = {}
    for axis in signature.axes:
        greatest = signature.ranges.get(axis, AxisRange()).greatest
        if not is_batch(axis) and axis not in PICTURE and (greatest is None or greatest >= _BEYOND_STABLE):
            found[axis] = max(_BEYOND_STABLE, signature.layout.lengths[axis])
    return found


def _same_numbers(want: NDArray, have: NDArray) -> bool:
    return want.shape == have.shape and np.array_equal(np.isfinite(want), np.isfinite(have))
