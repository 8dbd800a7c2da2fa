"""Verification of a quantized model: values on data that calibration did not see, form on every shape.

Rounding is fitted to the data that a model is for. On random tokens its outputs mean little, and so do those of the
original: so drawn cases show that it runs at every shape, with finite values where the eager model has finite ones; its
nearness to the eager model is measured on unseen data, all of it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimum_core import error_scales
from optimum_core.errors import OptimumError
from optimum_core.types import CaseResult, Fidelity, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_core.verify.comparison import (
    NO_LIMIT,
    ReferenceCase,
    Run,
    Tolerance,
    compare,
    failed,
    ranks,
    tolerance_of,
    verify,
)


def verify_quantized(
    run: Run,
    drawn: tuple[ReferenceCase, ...],
    unseen: tuple[ReferenceCase, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    precision: str,
    agreement: float | None = None,
    binding: bool = True,
    ties: bool = False,
) -> Fidelity:
    """Compare a quantized model with the eager model.

    Args:
        drawn: cases of fresh random inputs, compared in form: shapes, and finite values where the reference is finite.
        unseen: data that calibration did not see; without any, the drawn cases take its place.
        agreement: the least share of the same arg-max, instead of the precision's own.
        ties: values within the tolerance of the greatest count as it does; without, ties count as they fall.
        binding: False reports how far unseen data is off, and lets a promise decide.

    Returns:
        One result for all unseen data and each output, or the failures of drawn cases. `relative_error` is the norm of
        the difference over the norm of the eager model's values, and `agreement` counts ties as they fall.
    """
    drawn = tuple(case for case in drawn if not (case.large or case.short))  # out of range, or few numbers
    tolerance = tolerance_of(precision)
    if agreement is not None:
        tolerance = Tolerance(relative=tolerance.relative, cosine=tolerance.cosine, agreement=agreement)
    form = verify(run, drawn, outputs, precision=precision, tolerance=NO_LIMIT)
    wrong = tuple(result for result in form.results if not result.passed)
    label = f"{_count(unseen)} of unseen data" if unseen else "all drawn cases together"
    meant = tuple(case for case in drawn if case.empty is None)
    return Fidelity(
        precision=precision,
        tolerance=tolerance.relative,
        results=wrong or _together(run, unseen or meant, outputs, tolerance if binding else NO_LIMIT, label, ties=ties),
        formed=0 if wrong else len(drawn),
    )


def _count(cases: Sequence[ReferenceCase]) -> str:
    items = sum(next(iter(case.inputs.values())).shape[0] for case in cases)
    return f"{items} items"


def _together(
    run: Run,
    cases: Sequence[ReferenceCase],
    outputs: tuple[TensorSpec, ...],
    tolerance: Tolerance,
    label: str,
    *,
    ties: bool,
) -> tuple[CaseResult, ...]:
    """Return one result per output: the values of all cases are compared as one vector."""
    want: dict[str, list[Any]] = {spec.name: [] for spec in outputs}
    have: dict[str, list[Any]] = {spec.name: [] for spec in outputs}
    for case in cases:
        try:
            got = run({name: array.copy() for name, array in case.inputs.items()})
        except OptimumError as error:
            return (failed(label, {}, outputs[0].name, f"it does not run: {error.why}"),)
        for spec in outputs:
            kept = _meant(case, spec)
            want[spec.name].append(_rows(case.outputs[spec.name], kept))
            have[spec.name].append(_rows(np.asarray(got[spec.name]), kept))
    slack = tolerance.relative if ties else 0.0
    return tuple(_pooled(label, spec.name, want[spec.name], have[spec.name], tolerance, slack) for spec in outputs)


def _meant(case: ReferenceCase, spec: TensorSpec) -> NDArray | None:
    """Return a mask of the unpadded positions of an output with a value for every token; None: all are meaningful."""
    mask = case.inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or spec.shape[:2] != ("batch", "sequence"):
        return None
    return np.asarray(mask.astype(bool))


def _rows(array: NDArray, kept: NDArray | None) -> NDArray:
    """Return an output as rows along its last axis."""
    picked = array[kept] if kept is not None and array.shape[:2] == kept.shape else array
    return picked.reshape(-1, picked.shape[-1]) if picked.ndim else picked.reshape(1, 1)


def _pooled(
    label: str, output: str, want: list[Any], have: list[Any], tolerance: Tolerance, slack: float
) -> CaseResult:
    if len({rows.shape[-1] for rows in want}) > 1:  # a last axis that varies: values alone can be pooled
        want, have = [rows.reshape(-1, 1) for rows in want], [rows.reshape(-1, 1) for rows in have]
    wanted, found = np.concatenate(want), np.concatenate(have)
    if not np.issubdtype(wanted.dtype, np.floating):
        return compare(label, {}, output, wanted, found, tolerance)
    finite = np.isfinite(wanted)
    if not np.isfinite(found[finite]).all():
        return failed(label, {}, output, "NaN or infinity where eager has none")
    a, b = np.where(finite, wanted, 0).astype(np.float64), np.where(finite, found, 0).astype(np.float64)
    error, angle = error_scales.norm_error(a, b), error_scales.cosine(a, b)
    same = error_scales.agreement(a, b, slack) if ranks(output, a) else None
    problems = [
        f"relative error {error:.2g} > {tolerance.relative:g}" if error > tolerance.relative else "",
        f"cosine {angle:.4f} < {tolerance.cosine}" if angle < tolerance.cosine else "",
        f"arg-max agrees on {same:.1%} < {tolerance.agreement:.1%}"
        if same is not None and same < tolerance.agreement
        else "",
    ]
    problem = "; ".join(filter(None, problems))
    return CaseResult(
        case=label,
        shapes={},
        output=output,
        relative_error=error,
        cosine=angle,
        agreement=same,
        passed=not problem,
        problem=problem,
    )
