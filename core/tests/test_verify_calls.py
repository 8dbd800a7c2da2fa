"""Candidates are compared in more than numbers: the types of their outputs, and their inputs after the call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optimum_core.types import Fidelity, TensorSpec
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify import ReferenceCase, verify


def _verified(answer: Callable[[ArrayMapping], ArrayMapping], *, written: frozenset[str] = frozenset()) -> Fidelity:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    outputs: ArrayMapping = {"y": x + 1, "count": np.arange(3)}
    specs = tuple(TensorSpec(name=name, dtype=str(y.dtype), shape=y.shape) for name, y in outputs.items())
    case = ReferenceCase(name="case", inputs={"x": x}, outputs=outputs, varied=frozenset(), written=written)
    return verify(answer, (case,), specs, precision="fp32")


@pytest.mark.parametrize("dtype", ["int32", "float64", "bool", "uint64"])
def test_an_output_of_another_type_fails(dtype: str) -> None:
    assert _verified(lambda given: {"y": given["x"] + 1, "count": np.arange(3)}).passed
    found = _verified(lambda given: {"y": given["x"] + 1, "count": np.array([0, 1, 2]).astype(dtype)})
    assert [(item.output, item.problem) for item in found.results if not item.passed] == [
        ("count", f"dtype {dtype}, eager gives int64")
    ]
    assert not _verified(lambda given: {"y": np.arange(1, 7).reshape(3, 2), "count": np.arange(3)}).passed


def test_a_candidate_that_writes_into_its_inputs_fails_where_eager_does_not() -> None:
    def writing(given: ArrayMapping) -> ArrayMapping:
        given["x"][...] += 1
        return {"y": given["x"].copy(), "count": np.arange(3)}

    assert [item.problem for item in _verified(writing).results if not item.passed] == [
        "it writes into its input 'x', which eager leaves as it is"
    ]
    assert _verified(writing, written=frozenset({"x"})).passed


def test_a_candidate_may_put_other_arrays_into_the_mapping_that_it_gets() -> None:
    def converting(given: ArrayMapping) -> ArrayMapping:
        assert isinstance(given, dict)
        given["x"], given["more"] = given["x"].astype(np.float64), np.zeros(1)
        return {"y": (given["x"] + 1).astype(np.float32), "count": np.arange(3)}

    assert _verified(converting).passed


def test_a_call_that_eager_refuses_is_refused_by_an_error_of_any_type() -> None:
    """Parts of the original that run as they are, as the merge of pictures with text, raise what eager raises."""

    def original(given: ArrayMapping) -> ArrayMapping:
        raise IndexError("index out of range in self")

    case = ReferenceCase(name="far", inputs={"x": np.ones(2)}, outputs={}, varied=frozenset(), refused=True)
    specs = (TensorSpec(name="y", dtype="float64", shape=(2,)),)
    assert verify(original, (case,), specs, precision="fp32").passed
    assert not verify(lambda given: {"y": given["x"]}, (case,), specs, precision="fp32").passed
