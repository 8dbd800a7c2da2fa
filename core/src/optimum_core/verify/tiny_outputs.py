"""Outputs of tiny numbers, as of lengths in meters of what is a nanometer long: any of them would count as zero."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.error_scales import LEAST
from optimum_core.models.eager.rounding_noise import outputs_with_noise
from optimum_core.types.arrays import NDArray
from optimum_core.verify.comparison import ReferenceCase, is_steady, scaled

log = logging.getLogger(__name__)


def with_tiny_outputs(module: Any, case: ReferenceCase) -> ReferenceCase:
    """Return the case with factors that bring its tiny outputs to ordinary size, where these are more than what
    rounding has left of zero: eager gives nearly the same where its operators round otherwise."""
    factors = {name: _factor(want) for name, want in case.outputs.items() if want.dtype.kind == "f"}
    tiny = {name: factor for name, factor in factors.items() if factor != 1.0}
    if not tiny:
        return case
    try:
        otherwise = outputs_with_noise(module, case.inputs)
    except Exception as error:  # noqa: BLE001 - code of the model's, under a mode of torch that it may not know
        log.debug("%s: whether tiny outputs are rounding is not known: %r", case.name, error)
        return case
    return replace(case, factors={
        name: factor for name, factor in tiny.items()
        if name in otherwise and is_steady(scaled(case.outputs[name], factor), scaled(otherwise[name], factor))
    })  # fmt: skip


def _factor(want: NDArray) -> float:
    """Return the power of two that brings the greatest magnitude of an output above one half, if it is tiny; else 1."""
    greatest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
    return float(2.0 ** -np.frexp(greatest)[1]) if 2.0**-1000 < greatest < LEAST else 1.0
