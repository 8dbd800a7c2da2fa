"""Cases with values far from the user's samples: an export may compute whole numbers in floats, saturate narrow ones,
or round towards zero where eager rounds down."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.errors import ExportError
from optimum_core.models.eager.bounded_calls import ReadsNumberError, outputs_in_time, outputs_unwatched
from optimum_core.models.eager.reading import makes_whole_numbers
from optimum_core.models.eager.rounding_noise import outputs_with_noise
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.large_values import (
    end_inputs,
    large_inputs,
    least_inputs,
    negative_alone,
    negative_inputs,
    refusable_inputs,
    wide_float_inputs,
)
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify.comparison import MakeCase, ReferenceCase, sensitive_outputs

log = logging.getLogger(__name__)

LARGE = {"i": "whole numbers up to 2**40", "f": "floats 100000 times as large"}
NEGATIVE = {"i": "whole numbers below zero", "f": "floats below zero"}
LEAST = {"i": "the least whole numbers of 8 or 16 bits"}
WIDE_FLOATS = "floats up to 2**40, of which whole numbers are made"
ENDS = {"i": "whole numbers up to the greatest of their type"}
REFUSED = "which eager refuses"
_CHANGES = ((LARGE, large_inputs), (NEGATIVE, negative_inputs), (LEAST, least_inputs), (ENDS, end_inputs))
#: Changes after which whole numbers have more bits than some runtimes compute in.
_WIDE = (large_inputs, end_inputs)


def large_cases(module: Any, signature: ModelSignature, make_case: MakeCase) -> Iterator[ReferenceCase]:
    """Yield the cases that the eager model takes, with the outputs that are finite numbers; then those that it has to
    refuse.

    Args:
        make_case: makes the case of a name, inputs and outputs.
    """
    for names, change in _CHANGES:
        for kind, name in names.items():
            inputs = change(module, signature, Case(name=name, padding="none", seed=97), kind)
            if inputs is not None and (found := _answered(module, name, inputs, make_case)) is not None:
                yield replace(found, wide=kind == "i" and change in _WIDE)
    floats = wide_float_inputs(module, signature, Case(name=WIDE_FLOATS, padding="none", seed=97))
    found = _answered(module, WIDE_FLOATS, floats, make_case) if floats is not None else None
    if found is not None and makes_whole_numbers(module, found.inputs):
        yield found
    for name, inputs in negative_alone(module, signature, Case(name=NEGATIVE["i"], padding="none", seed=97)):
        if (found := _answered(module, f"{NEGATIVE['i']} in {name}", inputs, make_case)) is not None:
            yield found
    yield from _refused_cases(module, signature, make_case)


def _refused_cases(module: Any, signature: ModelSignature, make_case: MakeCase) -> Iterator[ReferenceCase]:
    """Yield calls that the eager model refuses for a whole number, and that pass the check of a call."""
    for words, inputs in refusable_inputs(module, signature, Case(name=REFUSED, padding="none", seed=98)):
        try:
            outputs_in_time(module, inputs)
        except (ReadsNumberError, ExportError):
            continue
        except Exception as error:  # noqa: BLE001 - an error of the model's, of any type
            log.info("%s: %r", words, error)
            yield replace(make_case(f"{words}, {REFUSED}", inputs, {}), large=True, refused=True)


def _answered(module: Any, name: str, inputs: ArrayMapping, make_case: MakeCase) -> ReferenceCase | None:
    """Return the case of a call, with those outputs that are finite numbers; None: the eager model refuses it, or none
    is."""
    try:
        outputs = outputs_unwatched(module, inputs)
        finite = {key: array for key, array in outputs.items() if array.dtype.kind != "f" or np.isfinite(array).all()}
        if not finite:
            return None
        found = replace(make_case(name, inputs, outputs), outputs=finite)
        return replace(found, large=True, sensitive=sensitive_outputs(found, outputs_with_noise(module, inputs)))
    except Exception as error:  # noqa: BLE001 - the eager model refuses such values, by an error of any type
        log.info("%s is left out: eager refuses it: %r", name, error)
        return None
