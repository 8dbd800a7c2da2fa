"""Comparison of every output of a candidate with the eager model's, on inputs that it was not traced with.

A candidate passes when every case passes. Nothing is promised beyond the cases: if an axis fails, the caller fixes it
and builds the candidate anew, or rejects the candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optimum_core import error_scales
from optimum_core.artifact import Structure
from optimum_core.errors import OptimumError
from optimum_core.types import CaseResult, Fidelity, TensorSpec
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_core.types.tensors import is_batch
from optimum_core.verify.meaningful_positions import meaningful

#: Runs a model once, from inputs to outputs by name.
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Limits within which outputs count as equal.

    Attributes:
        relative: the largest error, as a share of the output's scale.
        cosine: the smallest cosine between the two outputs.
        agreement: the smallest share of positions with the same arg-max, ties within `relative` counting as same.

    `optimum_core.error_scales` defines that scale.
    """

    relative: float
    cosine: float
    agreement: float


#: Tolerances by precision. docs/concepts.md states the same table.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp64": Tolerance(relative=1e-9, cosine=0.9999999999, agreement=1.0),
    "fp32": Tolerance(relative=1e-3, cosine=0.9999, agreement=1.0),
    "fp16": Tolerance(relative=1e-2, cosine=0.999, agreement=0.99),
    "bf16": Tolerance(relative=1e-1, cosine=0.995, agreement=0.98),
    "int8": Tolerance(relative=1.5e-1, cosine=0.98, agreement=0.95),
    "fp8": Tolerance(relative=2e-1, cosine=0.97, agreement=0.92),
    "int4": Tolerance(relative=4e-1, cosine=0.93, agreement=0.85),
    "nf4": Tolerance(relative=4e-1, cosine=0.93, agreement=0.85),
}

#: Precisions in which all cases are compared.
_WIDE = ("fp64", "fp32")

#: Difference by rounding alone from which an output counts as sensitive.
_STEADY = Tolerance(relative=1e-4, cosine=0.99999, agreement=1.0)

#: Bytes of outputs that are kept until all cases have run.
_KEPT_BYTES = 2**24

#: Tolerance for comparison of form alone.
NO_LIMIT = Tolerance(relative=float("inf"), cosine=-1.0, agreement=0.0)


def tolerance_of(precision: str) -> Tolerance:
    """Return the tolerance for a precision; that of fp32 if it is not in the table."""
    return TOLERANCES.get(precision.removeprefix("u"), TOLERANCES["fp32"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceCase:
    """One call: inputs and the eager model's outputs, of which it may lack some that are not compared.

    Attributes:
        varied: the axes whose length differs from the traced one.
        lengths: of the axes that vary, in this case.
        empty: mask of the rows of the batch without any token; their outputs need only be finite.
        valid: by the name of an axis, mask of the meaningful positions, for outputs whose leading shape is ("batch",
            that axis) and would include fully padded queries; of other axes, all positions are meaningful.
        large: whether its values are so large, or so rare, that candidates in fp32, or more, alone are compared.
        short: whether an edge or a length is about the least, so that an output may hold few numbers, and these cancel
            out: candidates in fp32, or more, alone are compared.
        sensitive: by output that rounding alone changes, mask of the rows where it does: a difference in them is noted,
            and no fault. Of an output whose first axis is no input's, and of whole numbers, all rows count.
        wide: whether whole numbers have more bits than some runtimes compute in, whatever the export.
        refused: the eager model refuses the call by its values, and so must a candidate; there are no outputs.
        written: the inputs that the eager model changes in place, as a candidate may.
        factors: by output of tiny numbers, what it is multiplied by to be compared.
        structure: the containers and constants around the outputs; None: not known.
        undrawn: its values are of no rule, and may be to blame in place of its lengths.
    """

    name: str
    inputs: ArrayMapping
    outputs: ArrayMapping
    varied: frozenset[str]
    valid: ArrayMapping = field(default_factory=dict)
    empty: NDArray | None = None
    lengths: Mapping[str, int] = field(default_factory=dict)
    large: bool = False
    short: bool = False
    sensitive: ArrayMapping = field(default_factory=dict)
    wide: bool = False
    refused: bool = False
    written: frozenset[str] = frozenset()
    factors: Mapping[str, float] = field(default_factory=dict)
    structure: Structure | None = None
    undrawn: bool = False


#: Makes the case of a call by its name, its inputs, and the eager model's outputs.
MakeCase = Callable[[str, ArrayMapping, ArrayMapping], ReferenceCase]


def verify(
    run: Run,
    cases: tuple[ReferenceCase, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    precision: str,
    tolerance: Tolerance | None = None,
    stop_early: bool = False,
) -> Fidelity:
    """Run every case and compare every output.

    Args:
        run: the candidate, from arrays by input name to arrays by output name.
        tolerance: instead of the precision's own.
        stop_early: stop after the first case that fails.
    """
    tolerance = tolerance or tolerance_of(precision)
    results: list[CaseResult] = []
    lifetimes = _Lifetimes()
    for case in cases:
        if (case.large or case.short) and not case.refused and precision not in _WIDE:
            continue
        noted, first = lifetimes.noting(run, case), outputs[0].name
        found = [_refusal(noted, case, first)] if case.refused else [*_compare_case(noted, case, outputs, tolerance)]
        results.extend(found)
        if stop_early and not all(result.passed for result in found):
            break
    results.extend(lifetimes.broken())
    return Fidelity(precision=precision, tolerance=tolerance.relative, results=tuple(results))


class _Lifetimes:
    """Outputs of all calls, up to some bytes, with copies of them: later calls must not write into earlier outputs."""

    def __init__(self) -> None:
        self._kept: list[tuple[ReferenceCase, str, NDArray, NDArray]] = []
        self._room = _KEPT_BYTES

    def noting(self, run: Run, case: ReferenceCase) -> Run:
        """Return the candidate, whose outputs are kept."""

        def noted(inputs: ArrayMapping) -> Mapping[str, Any]:
            answer = run(inputs)
            for name, value in answer.items():
                if isinstance(value, np.ndarray) and value.nbytes <= self._room:
                    self._room -= value.nbytes
                    self._kept.append((case, name, value, value.copy()))
            return answer

        return noted

    def broken(self) -> Iterator[CaseResult]:
        """Yield a failed result for the first output that a later call has changed."""
        for case, name, value, copy in self._kept:
            if value.tobytes() != copy.tobytes():
                shapes = {key: tuple(array.shape) for key, array in case.inputs.items()}
                yield failed(case.name, shapes, name, "a later call wrote into this output's memory")
                return


def _refusal(run: Run, case: ReferenceCase, output: str) -> CaseResult:
    """Return whether a candidate refuses a call, as eager does."""
    shapes = {name: tuple(array.shape) for name, array in case.inputs.items()}
    try:
        run({name: array.copy() for name, array in case.inputs.items()})
    except Exception:  # noqa: BLE001 - parts of the original that run as they are refuse by an error of any type
        return _result(case.name, shapes, output, 0.0, 1.0, None, "")
    return failed(case.name, shapes, output, "it answers")


def _compare_case(
    run: Run, case: ReferenceCase, outputs: tuple[TensorSpec, ...], tolerance: Tolerance
) -> Iterator[CaseResult]:
    shapes = {name: tuple(array.shape) for name, array in case.inputs.items()}
    try:
        # A copy: a candidate that writes into its inputs must not spoil the case for the next one.
        given = {name: array.copy() for name, array in case.inputs.items()}
        got = run(dict(given))
    except OptimumError as error:
        yield failed(case.name, shapes, outputs[0].name, f"it does not run: {error.why}")
        return
    if problem := _written(given, case):
        yield failed(case.name, shapes, outputs[0].name, problem)
        return
    for spec in (spec for spec in outputs if spec.name in case.outputs):
        if spec.name not in got:
            yield failed(case.name, shapes, spec.name, "the output is missing")
            continue
        want, have = case.outputs[spec.name], np.asarray(got[spec.name])
        if (problem := _of_another_kind(want, have)) or want.shape != have.shape:
            yield failed(case.name, shapes, spec.name, problem or f"shape {have.shape}, eager gives {want.shape}")
            continue
        if (valid := meaningful(case.valid, case.lengths, spec, want.shape)) is not None:
            want, have = want[valid], have[valid]
        allowed = _allowed(want, tolerance)
        if (factor := case.factors.get(spec.name)) is not None:
            want, have = scaled(want, factor), scaled(have, factor)
        result = compare(case.name, shapes, spec.name, want, have, allowed)
        if case.empty is not None and not result.passed:
            result = _beside_empty_rows(result, case.empty, spec, (want, have), allowed)
        rows = case.sensitive.get(spec.name)
        yield result if rows is None or result.passed else _beside_sensitive(result, rows, spec, (want, have), allowed)


def _written(given: ArrayMapping, case: ReferenceCase) -> str:
    """Return that a call has changed an input that eager leaves as it is; "" where it has not."""
    names = (name for name in given.keys() - case.written if given[name].tobytes() != case.inputs[name].tobytes())
    return next((f"it writes into its input {name!r}, which eager leaves as it is" for name in names), "")


def _of_another_kind(want: NDArray, have: NDArray) -> str:
    """Return that an output is of another type, if that is more than other bits of a float; "" otherwise."""
    same = have.dtype.kind in "fV" if want.dtype.kind == "f" else have.dtype == want.dtype  # bfloat16 is of kind V
    return "" if same else f"dtype {have.dtype}, eager gives {want.dtype}"


def scaled(values: NDArray, factor: float) -> NDArray:
    """Return values times a factor, in 64 bits: the types of tiny numbers may not hold the factor itself."""
    return np.asarray(values.astype(np.float64) * factor)


def _allowed(want: NDArray, tolerance: Tolerance) -> Tolerance:
    """Return the tolerance of one output: one in 32 bits cannot be held to 64."""
    is_double = tolerance is TOLERANCES["fp64"]
    return TOLERANCES["fp32"] if is_double and want.dtype in (np.float32, np.float16) else tolerance


def sensitive_outputs(case: ReferenceCase, otherwise: ArrayMapping) -> Arrays:
    """Return, by output of a case that rounding, or the order among equal values, alone changes, where it does.

    Args:
        otherwise: the outputs with other rounding and order.
    """
    pairs = {name: (want, otherwise[name]) for name, want in case.outputs.items()}
    return {name: _changed_rows(*pair) for name, pair in pairs.items() if not is_steady(*pair)}


def is_steady(want: NDArray, have: NDArray) -> bool:
    """Whether an output is the same where eager rounds otherwise."""
    return want.shape == have.shape and compare("", {}, "", want, have, _STEADY).passed


def _changed_rows(want: NDArray, have: NDArray) -> NDArray:
    if want.ndim == 0 or want.shape != have.shape or want.dtype.kind != "f":
        return np.ones(want.shape[:1], dtype=bool)
    return np.array([not is_steady(*pair) for pair in zip(want, have, strict=True)], dtype=bool)


def _beside_sensitive(
    whole: CaseResult,
    sensitive: NDArray,
    spec: TensorSpec,
    values: tuple[NDArray, NDArray],
    tolerance: Tolerance,
) -> CaseResult:
    """Return a result for the rows that rounding leaves alone, if it fails; otherwise the whole one with a note, if the
    output is finite where eager's is."""
    want, have = values
    if _has_rows(spec) and sensitive.shape == want.shape[:1]:
        rest = compare(whole.case, whole.shapes, spec.name, want[~sensitive], have[~sensitive], tolerance)
        if not rest.passed:
            return rest
    return _noted(whole)


def _has_rows(spec: TensorSpec) -> bool:
    """Whether the first axis of an output is that of an input, named or "axis0_" and its length."""
    first = spec.shape[0] if spec.shape else None
    return is_batch(first) or (isinstance(first, str) and first.startswith("axis0_"))


def _noted(result: CaseResult) -> CaseResult:
    """Return a result that passes with a note, if the output is finite where eager's is."""
    if not np.isfinite(result.relative_error):
        return result
    note = f"{result.case} give other values than eager's (relative error {result.relative_error:.2g}), "
    note += "which rounding alone changes there, or the order among equal values"
    return replace(result, relative_error=0.0, cosine=1.0, agreement=None, passed=True, problem="", note=note)


def _beside_empty_rows(
    whole: CaseResult,
    empty: NDArray,
    spec: TensorSpec,
    values: tuple[NDArray, NDArray],
    tolerance: Tolerance,
) -> CaseResult:
    """Return a result for the rows with tokens if the others are finite, with a note that those differ from the eager
    model's; the whole result otherwise."""
    want, have = values
    if spec.shape[:1] != ("batch",) or not np.isfinite(have[np.isfinite(want)]).all():
        return whole
    rest = compare(whole.case, whole.shapes, spec.name, want[~empty], have[~empty], tolerance)
    return replace(rest, note=f"{whole.case} gives other values than eager's") if rest.passed else rest


def failed(case: str, shapes: Mapping[str, tuple[int, ...]], output: str, problem: str) -> CaseResult:
    """Return a failed result for an output that could not be compared."""
    return CaseResult(
        case=case,
        shapes=shapes,
        output=output,
        relative_error=float("inf"),
        cosine=0.0,
        agreement=None,
        passed=False,
        problem=problem,
    )


def compare(
    case: str,
    shapes: Mapping[str, tuple[int, ...]],
    output: str,
    want: NDArray,
    have: NDArray,
    tolerance: Tolerance,
) -> CaseResult:
    """Compare one output with the eager model's; arrays of two shapes differ, though numpy may broadcast them."""
    if want.shape != have.shape:
        return failed(case, shapes, output, f"shape {have.shape}, eager gives {want.shape}")
    if not np.issubdtype(want.dtype, np.floating):
        same = float(np.mean(want == have)) if want.size else 1.0
        problem = "" if same == 1.0 else f"{1 - same:.1%} of its values differ"
        return _result(case, shapes, output, 1 - same, same, None, problem)
    want64, have64 = want.astype(np.float64), have.astype(np.float64)
    finite, alike = np.isfinite(want64), np.isfinite(have64)
    if not (finite.all() and alike.all()):
        if not (np.array_equal(finite, alike) and np.array_equal(want64[~finite], have64[~finite], equal_nan=True)):
            return failed(case, shapes, output, "NaN or infinity where eager has none, or the other way round")
        want64, have64 = np.where(finite, want64, 0.0), np.where(finite, have64, 0.0)
    error, angle = error_scales.relative_error(want64, have64), error_scales.cosine(want64, have64)
    agreement = error_scales.agreement(want64, have64, tolerance.relative) if ranks(output, want64) else None
    problems = [
        f"relative error {error:.2g} > {tolerance.relative:g}" if error > tolerance.relative else "",
        f"cosine {angle:.6f} < {tolerance.cosine}" if angle < tolerance.cosine else "",
        f"arg-max agrees on {agreement:.1%} < {tolerance.agreement:.0%}"
        if agreement is not None and agreement < tolerance.agreement
        else "",
    ]
    return _result(case, shapes, output, error, angle, agreement, "; ".join(filter(None, problems)))


def _result(
    case: str,
    shapes: Mapping[str, tuple[int, ...]],
    output: str,
    error: float,
    cosine: float,
    agreement: float | None,
    problem: str,
) -> CaseResult:
    return CaseResult(
        case=case,
        shapes=shapes,
        output=output,
        relative_error=error,
        cosine=cosine,
        agreement=agreement,
        passed=not problem,
        problem=problem,
    )


def ranks(output: str, want: NDArray) -> bool:
    """Whether the last axis of an output ranks choices, so that its arg-max means something."""
    return "logits" in output and want.ndim >= 2 and want.shape[-1] > 1 and want.size > 0


def failing_axes(fidelity: Fidelity, cases: tuple[ReferenceCase, ...]) -> frozenset[str] | None:
    """Return the axes to blame when a candidate fails: those that some failing case varied alone, and all axes of
    a case that these do not explain.

    None: it fails even at the traced shape, or on values of no rule at lengths that others do not blame.
    """
    varied = {case.name: case.varied for case in cases}
    wrong = {result.case for result in fidelity.results if not result.passed}
    undrawn = wrong & {case.name for case in cases if case.undrawn}
    alone = {next(iter(varied[name])) for name in wrong - undrawn if len(varied.get(name, ())) == 1}
    together = [varied[name] for name in wrong - undrawn if not varied.setdefault(name, frozenset()) & alone]
    axes = frozenset(alone).union(*together)
    return axes if axes and all(together) and all(varied[name] & axes for name in undrawn) else None
