"""Wrong outputs do not pass, and the axis to blame is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optimum_core.errors import SessionError, VerificationError
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.testing.decoders import decoder, described
from optimum_core.types import CaseResult, Fidelity, Lengths, TensorSpec
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify import (
    TOLERANCES,
    ReferenceCase,
    Tolerance,
    compare,
    failing_axes,
    relative_error,
    tolerance_of,
    verify,
)
from optimum_core.verify.planned_cases import planned_cases
from optimum_core.verify.reference import cases_at, cases_taken, reference_cases

Described = Callable[[str], tuple[Any, ModelSignature]]
FP32 = tolerance_of("fp32")
LOOSE = Tolerance(relative=1e9, cosine=-1.0, agreement=0.0)
LOGITS = np.array([[0.0, 2.0, 1.0], [3.0, 0.5, 0.25]], dtype=np.float32)


def _compare(want: Any, have: Any, tolerance: Tolerance = FP32, output: str = "logits") -> CaseResult:
    return compare("case", {}, output, np.asarray(want), np.asarray(have), tolerance)


def test_an_output_that_a_later_call_writes_into_fails() -> None:
    specs = (TensorSpec(name="y", dtype="float32", shape=("batch", 2)),)
    cases = tuple(
        ReferenceCase(
            name=f"case {number}", inputs={"x": np.full((2, 2), number, np.float32)},
            outputs={"y": np.full((2, 2), number, np.float32)}, varied=frozenset(),
        )
        for number in range(3)
    )  # fmt: skip
    memory = np.zeros((2, 2), np.float32)

    def reusing(inputs: ArrayMapping) -> ArrayMapping:
        memory[:] = inputs["x"]
        return {"y": memory}

    assert verify(lambda inputs: {"y": inputs["x"].copy()}, cases, specs, precision="fp32").passed
    found = verify(reusing, cases, specs, precision="fp32")
    assert not found.passed and "a later call wrote into" in found.results[-1].problem


# -- compare ----------------------------------------------------------------------------------------------------------


def test_arrays_of_two_shapes_are_not_spread_over_each_other() -> None:
    assert not _compare(np.ones((3, 1)), np.ones(3)).passed
    assert not _compare(np.ones((3, 2)), np.ones((1, 2))).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_where_eager_is_finite_and_the_other_way_round(value: float) -> None:
    other = LOGITS.copy()
    other[1, 1] = value
    assert not _compare(LOGITS, other, LOOSE).passed
    assert not _compare(other, LOGITS, LOOSE).passed
    assert _compare(other, other.copy()).passed


def test_infinities_of_another_sign_fail() -> None:
    assert not _compare([np.inf, 1.0], [-np.inf, 1.0], LOOSE).passed
    assert not _compare([np.nan, 1.0], [np.inf, 1.0], LOOSE).passed


def test_beside_infinities_the_rest_is_still_compared() -> None:
    assert not _compare([-np.inf, 1.0, 2.0], [-np.inf, 1.0, 2.5]).passed


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool"])
def test_whole_numbers_must_be_the_same(dtype: str) -> None:
    want = np.array([1, 0, 1, 1]).astype(dtype)
    assert _compare(want, want).passed
    result = _compare(want, np.array([1, 0, 1, 0]).astype(dtype), LOOSE)
    assert not result.passed
    assert "25.0%" in result.problem


def test_zeros_agree_with_zeros_only() -> None:
    zeros = np.zeros((2, 3), dtype=np.float32)
    same = _compare(zeros, zeros)
    assert (same.passed, same.cosine, same.relative_error) == (True, 1.0, 0.0)
    assert not _compare(zeros, zeros + 0.1).passed
    assert not _compare(zeros + 0.1, zeros).passed


def test_empty_outputs_agree() -> None:
    assert _compare(np.zeros((0, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float32)).passed


def test_each_tolerance_fails_alone() -> None:
    have = LOGITS + np.array([[0.0, 0.0, 0.3], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert "relative error" in _compare(LOGITS, have, replace(LOOSE, relative=0.01)).problem
    assert "cosine" in _compare(LOGITS, have, replace(LOOSE, cosine=0.99999)).problem
    swapped = LOGITS.copy()
    swapped[0, 2] = 2.2
    # A tie within `relative` counts as the same class, so that this tolerance needs a narrow one to show alone.
    result = _compare(LOGITS, swapped, Tolerance(relative=0.05, cosine=-1.0, agreement=1.0))
    assert result.agreement == 0.5
    assert "arg-max agrees on 50.0%" in result.problem


def test_a_tie_may_fall_either_way() -> None:
    want = np.array([[1.0, 1.0 + 1e-7, 0.0]])
    have = np.array([[1.0 + 1e-7, 1.0, 0.0]])
    assert want.argmax() != have.argmax()
    result = _compare(want, have)
    assert (result.passed, result.agreement) == (True, 1.0)


def test_only_logits_are_ranked() -> None:
    assert _compare(LOGITS, LOGITS, output="last_hidden_state").agreement is None
    assert _compare(LOGITS[:, :1], LOGITS[:, :1]).agreement is None
    assert _compare(LOGITS, LOGITS, output="start_logits").agreement == 1.0


def test_the_relative_error_is_of_the_largest_value() -> None:
    assert relative_error(np.array([2.0, -4.0]), np.array([2.0, -3.0])) == 0.25
    assert relative_error(np.zeros(2), np.array([0.0, 1e-6])) == 1.0


def test_an_unknown_precision_is_held_to_fp32() -> None:
    assert tolerance_of("fp3") == TOLERANCES["fp32"]
    others = [other for name, other in TOLERANCES.items() if name != "fp64"]
    assert all(TOLERANCES["fp32"].relative <= other.relative for other in others)


arrays = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=st.floats(-1e6, 1e6, width=32)
)


@given(arrays)
def test_everything_agrees_with_itself(array: np.ndarray[Any, Any]) -> None:
    result = _compare(array, array.copy())
    assert result.passed
    assert result.relative_error == 0.0


@given(arrays, st.data())
def test_a_large_change_anywhere_fails(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, array.size - 1))
    other = array.copy()
    other.reshape(-1)[index] += max(float(np.abs(array).max()), 1e-3) * 0.5
    result = _compare(array, other, output="hidden")
    assert not result.passed
    assert result.relative_error > FP32.relative
    assert result.problem


# -- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(described: Described) -> tuple[Any, ModelSignature, tuple[ReferenceCase, ...]]:
    module, signature = described("bert")
    return module, signature, reference_cases(module, signature)


Bert = tuple[Any, ModelSignature, tuple[ReferenceCase, ...]]


def _verify(bert: Bert, run: Callable[[ArrayMapping], Mapping[str, Any]]) -> tuple[Fidelity, frozenset[str] | None]:
    _, signature, cases = bert
    fidelity = verify(run, cases, signature.outputs, precision="fp32")
    return fidelity, failing_axes(fidelity, cases)


def _failed(fidelity: Fidelity) -> set[str]:
    return {result.case for result in fidelity.results if not result.passed}


def test_the_cases_cover_what_can_go_wrong(bert: Bert) -> None:
    _, signature, cases = bert
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    lengths = {case.inputs["input_ids"].shape for case in cases}
    traced = signature.layout.lengths["sequence"]
    assert {1, 2, 3} <= {batch for batch, _ in lengths}
    assert min(length for _, length in lengths) < traced < max(length for _, length in lengths)
    assert {"no padding", "left padding", "every axis at once"} <= set(names)
    masks = {case.name: case.inputs["attention_mask"] for case in cases}
    assert not masks["left padding"][:, 0].all()
    assert masks["left padding"][:, -1].all()
    drawn = signature.draw(next(planned_cases(signature)))
    assert all(np.array_equal(drawn[name], array) for name, array in cases[0].inputs.items())


def test_the_model_itself_passes(bert: Bert) -> None:
    fidelity, axes = _verify(bert, lambda inputs: eager_outputs(bert[0], inputs))
    assert fidelity.passed
    assert {result.case for result in fidelity.results} == {case.name for case in bert[2]}
    assert axes is None


def test_one_that_ignores_the_mask_fails(bert: Bert) -> None:
    def run(inputs: ArrayMapping) -> ArrayMapping:
        return eager_outputs(bert[0], {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])})

    fidelity, axes = _verify(bert, run)
    assert "traced shape, fresh values" in _failed(fidelity)
    assert "no padding" not in _failed(fidelity)
    assert axes is None


def test_one_that_ignores_token_types_fails(bert: Bert) -> None:
    def run(inputs: ArrayMapping) -> ArrayMapping:
        return eager_outputs(bert[0], {**inputs, "token_type_ids": np.zeros_like(inputs["token_type_ids"])})

    assert not _verify(bert, run)[0].passed


def test_one_with_a_baked_sequence_length_fails_on_that_axis_only(bert: Bert) -> None:
    length = bert[1].layout.lengths["sequence"]

    def run(inputs: ArrayMapping) -> ArrayMapping:
        places = np.minimum(np.arange(length), inputs["input_ids"].shape[1] - 1)
        return eager_outputs(bert[0], {name: array[:, places] for name, array in inputs.items()})

    fidelity, axes = _verify(bert, run)
    assert {"sequence 29", "sequence 10"} <= _failed(fidelity)
    assert not {"batch 1", "batch 3", "traced shape, fresh values", "left padding"} & _failed(fidelity)
    assert axes == frozenset({"sequence"})


def test_one_that_refuses_another_batch_fails_on_that_axis_only(bert: Bert) -> None:
    def run(inputs: ArrayMapping) -> ArrayMapping:
        if len(inputs["input_ids"]) != bert[1].layout.lengths["batch"]:
            raise SessionError("backend 'x'", "got invalid dimensions", "none")
        return eager_outputs(bert[0], inputs)

    fidelity, axes = _verify(bert, run)
    assert axes == frozenset({"batch"})
    assert {result.problem for result in fidelity.results if not result.passed} == {
        "it does not run: got invalid dimensions"
    }


def test_one_that_is_wrong_on_two_axes_is_blamed_for_both(bert: Bert) -> None:
    lengths = bert[1].layout.lengths

    def run(inputs: ArrayMapping) -> ArrayMapping:
        right = inputs["input_ids"].shape == (lengths["batch"], lengths["sequence"])
        return {name: array + (not right) for name, array in eager_outputs(bert[0], inputs).items()}

    assert _verify(bert, run)[1] == frozenset({"batch", "sequence"})


def test_one_that_counts_positions_from_the_left_fails_on_left_padding_alone(bert: Bert) -> None:
    def run(inputs: ArrayMapping) -> ArrayMapping:
        mask = inputs["attention_mask"]
        if mask[:, 0].all():
            return eager_outputs(bert[0], inputs)
        rolled = {
            name: np.stack([np.roll(row, -int((1 - keep).sum())) for row, keep in zip(array, mask, strict=True)])
            for name, array in inputs.items()
        }
        return eager_outputs(bert[0], rolled)

    fidelity, axes = _verify(bert, run)
    assert _failed(fidelity) == {"left padding"}
    assert axes is None
    assert not fidelity.passed


def test_values_at_padding_are_not_held_against_a_candidate_where_eager_means_nothing(described: Described) -> None:
    module, signature = described("gpt2")
    cases = reference_cases(module, signature)

    def run(inputs: ArrayMapping) -> ArrayMapping:
        outputs = eager_outputs(module, inputs)
        if not inputs["attention_mask"][:, 0].all():
            outputs["logits"][inputs["attention_mask"] == 0] = 0.0
        return outputs

    assert verify(run, cases, signature.outputs, precision="fp32").passed


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda logits: {}, "missing"),
        (lambda logits: {"logits": logits[..., :-1]}, "shape"),
        (lambda logits: {"logits": logits[:1]}, "shape"),
        (lambda logits: {"logits": logits * np.nan}, "NaN"),
    ],
)
def test_what_cannot_be_compared_fails_with_a_reason(bert: Bert, spoil: Any, problem: str) -> None:
    fidelity, _ = _verify(bert, lambda inputs: spoil(eager_outputs(bert[0], inputs)["logits"]))
    worst = fidelity.worst
    assert worst is not None
    assert not fidelity.passed
    assert problem in worst.problem


def test_stopping_early_leaves_at_the_first_failure(bert: Bert) -> None:
    _, signature, cases = bert
    fidelity = verify(lambda inputs: {}, cases, signature.outputs, precision="fp32", stop_early=True)
    assert len(fidelity.results) == len(signature.outputs)


def test_nothing_compared_is_nothing_proved() -> None:
    assert not Fidelity(precision="fp32", tolerance=1e-3, results=()).passed


class _Random(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_a_model_that_draws_random_numbers_cannot_be_checked() -> None:
    signature = describe(_Random().eval(), name="random", samples={"x": torch.rand(2, 4)})
    with pytest.raises(VerificationError, match="two values for output 'output'") as caught:
        reference_cases(_Random().eval(), signature)
    assert "deterministic" in caught.value.remedy


def test_the_processors_own_output_is_a_case(bert: Bert) -> None:
    module, signature, _ = bert
    real = {name: np.ones((3, 21), dtype=np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    cases = reference_cases(module, replace(signature, real=real))
    assert cases[-1].name == "the processor's own output"
    assert cases[-1].varied == {"batch", "sequence"}
    assert cases[-1].outputs["logits"].shape == (3, 5)


# -- sessions that do not take every length ---------------------------------------------------------------------------


def _shapes_taken(lengths: Lengths | None, described: Described) -> set[tuple[int, ...]]:
    module, signature = described("bert")
    session = SimpleNamespace(lengths=lengths)
    cases = cases_taken(session, module, signature, reference_cases(module, signature))
    return {case.inputs["input_ids"].shape for case in cases}


def test_a_session_is_compared_at_lengths_that_it_takes(described: Described) -> None:
    usual = _shapes_taken(None, described)
    assert _shapes_taken(Lengths(greatest={"batch": 99, "sequence": 9999}), described) == usual
    only = ({"batch": 1, "sequence": 16}, {"batch": 4, "sequence": 6})
    assert _shapes_taken(Lengths(only=only), described) == {(1, 16), (4, 6)}
    traced = described("bert")[1].layout.lengths["sequence"]
    longest = traced + 1
    bounded = _shapes_taken(Lengths(greatest={"sequence": longest, "batch": 2}), described)
    assert max(sequence for _, sequence in bounded) == longest, "as far as it goes"
    assert max(batch for batch, _ in bounded) == 2
    assert min(sequence for _, sequence in bounded) < traced


def test_a_session_that_takes_nothing_is_no_pass(described: Described) -> None:
    with pytest.raises(VerificationError, match="takes no shape"):
        _shapes_taken(Lengths(greatest={"sequence": 0}), described)


@pytest.mark.parametrize("kind", ["mistral", "llama4_text"])
def test_a_query_whose_window_or_chunk_has_padding_alone_is_not_compared(kind: str) -> None:
    """Ways of attention give it different values; before that place, padded queries are compared as well."""
    module, signature = decoder(kind), described(kind)
    (case,) = cases_at(module, signature, {"long": {"batch": 4, "sequence": 64}})
    padded = case.inputs["attention_mask"] == 0
    valid = case.valid["sequence"]
    assert (padded & valid).any() and (padded & ~valid).any() and valid[~padded].all()
    other = copy.deepcopy(module)
    other.set_attn_implementation("eager")

    def run(inputs: ArrayMapping) -> ArrayMapping:
        return eager_outputs(other, inputs)

    assert verify(run, (case,), signature.outputs, precision="fp32").passed
    assert not verify(run, (replace(case, valid={}),), signature.outputs, precision="fp32").passed
