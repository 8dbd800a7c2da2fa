"""A quantized model: right in form on every drawn case, near to eager on all unseen data together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import SessionError
from optimum_core.types import Fidelity, TensorSpec
from optimum_core.verify import ReferenceCase
from optimum_core.verify.quantized import verify_quantized

LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _case(values: Any, *, name: str = "case", mask: Any = None, output: str = "logits") -> ReferenceCase:
    inputs = {"x": np.asarray(values, dtype=np.float32)}
    if mask is not None:
        inputs["attention_mask"] = np.asarray(mask)
    return ReferenceCase(name=name, inputs=inputs, outputs={output: inputs["x"]}, varied=frozenset())


def _verify(run: Run, drawn: Any, unseen: Any = (), outputs: Any = (LOGITS,), **settings: Any) -> Fidelity:
    return verify_quantized(run, tuple(drawn), tuple(unseen), outputs, **{"precision": "int8", **settings})


def _times(change: Any) -> Run:
    """Gives out what went in, changed."""
    return lambda inputs: {"logits": change(inputs["x"])}


DRAWN = [_case([[1.0, 2.0]], name="one"), _case([[3.0, 1.0], [1.0, 5.0]], name="two")]
UNSEEN = [_case([[3.0, 0.0]]), _case([[0.0, 4.0]])]


def test_drawn_values_may_be_anything_of_the_right_form() -> None:
    calls = iter([50.0, -7.0, 1.0, 1.0])
    found = _verify(lambda inputs: {"logits": inputs["x"] * next(calls)}, DRAWN, UNSEEN)
    assert found.passed
    assert (found.formed, len(found.results)) == (2, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[:, :1], "shape"),
        (lambda x: x[None], "shape"),
        (lambda x: np.where(x == 5.0, np.nan, x), "NaN|finite"),
        (lambda x: np.where(x == 5.0, np.inf, x), "infinity|finite"),
    ],
)
def test_a_wrong_form_on_one_drawn_case_fails(change: Any, said: str) -> None:
    found = _verify(_times(change), DRAWN, UNSEEN, binding=False)
    assert not found.passed
    assert found.formed == 0
    assert any(result.case == "two" for result in found.results)


def test_what_does_not_run_fails_with_its_words() -> None:
    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(inputs["x"]) > 1:
            raise SessionError("backend 'acme'", "no such kernel", "none")
        return {"logits": inputs["x"]}

    found = _verify(run, DRAWN, UNSEEN)
    assert not found.passed
    assert found.worst is not None and "no such kernel" in found.worst.problem
    found = _verify(run, DRAWN[:1], [_case([[1.0, 2.0]] * 2)])
    assert found.worst is not None and "no such kernel" in found.worst.problem


def test_errors_are_of_all_unseen_data_together() -> None:
    # The difference is (0, 1) in the first case and nothing in the second; eager's norm over both is 5.
    found = _verify(lambda inputs: {"logits": inputs["x"] + [[0.0, float(inputs["x"][0, 0] == 3)]]}, DRAWN[:1], UNSEEN)
    (result,) = found.results
    assert result.case == "2 items of unseen data"
    assert result.relative_error == pytest.approx(1 / 5)
    assert result.cosine == pytest.approx(25 / (5 * sqrt(26)))
    assert result.agreement == 1.0
    assert not result.passed and "relative error 0.2 > 0.15" in result.problem


def test_agreement_is_a_share_of_all_rows_and_may_be_stated() -> None:
    unseen = [_case([[1.0, 0.99], [1.0, 2.0]]), _case([[5.0, 0.0], [0.0, 5.0]])]

    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"logits": np.where(inputs["x"] == 1.0, 0.98, inputs["x"])}

    found = _verify(run, DRAWN[:1], unseen)
    (result,) = found.results
    assert result.agreement == 0.75
    assert "arg-max agrees on 75.0% < 95.0%" in result.problem
    assert _verify(run, DRAWN[:1], unseen, agreement=0.75).passed
    assert not _verify(run, DRAWN[:1], unseen, agreement=0.76).passed


def test_where_a_promise_decides_values_are_told_and_do_not_bind() -> None:
    found = _verify(_times(lambda x: -x), DRAWN, UNSEEN, binding=False)
    (result,) = found.results
    assert found.passed
    assert result.relative_error == pytest.approx(2.0)
    assert result.cosine == pytest.approx(-1.0)
    assert not _verify(_times(lambda x: -x), DRAWN, UNSEEN).passed


def test_padding_means_nothing() -> None:
    spec = TensorSpec(name="logits", dtype="float32", shape=("batch", "sequence", 2))
    values = np.array([[[1.0, 2.0], [2.0, 1.0], [7.0, 7.5]]])
    unseen = [_case(values, mask=[[1, 1, 0]])]

    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"logits": np.where(inputs["x"] >= 7, -9.0, inputs["x"])}

    (result,) = _verify(run, unseen, unseen, (spec,)).results
    assert (result.passed, result.relative_error, result.agreement) == (True, 0.0, 1.0)
    assert not _verify(run, [_case(values)], [_case(values, mask=[[1, 1, 1]])], (spec,)).passed


def test_without_unseen_data_the_drawn_stand_in_and_the_report_says_so() -> None:
    found = _verify(_times(lambda x: x * 1.01), DRAWN)
    assert found.passed
    assert [result.case for result in found.results] == ["all drawn cases together"]
    assert not _verify(_times(lambda x: x * 2), DRAWN).passed


def test_values_far_beyond_the_ranges_are_not_compared() -> None:
    large = replace(_case([[1e5, 2.0]], name="large"), large=True)
    found = _verify(_times(lambda x: np.minimum(x, 6.0)), [*DRAWN, large])
    assert found.passed
    assert found.formed == len(DRAWN)


def test_a_last_axis_that_varies_is_pooled_by_value() -> None:
    spec = TensorSpec(name="scores", dtype="float32", shape=("batch", "sequence"))
    unseen = [_case([[3.0, 0.0]], output="scores"), _case([[0.0, 0.0, 4.0]], output="scores")]
    found = _verify(lambda inputs: {"scores": inputs["x"] * 1.1}, unseen, unseen, (spec,))
    assert found.results[0].relative_error == pytest.approx(0.1)
