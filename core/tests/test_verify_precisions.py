"""Tolerances by precision, and the cases that each precision is compared in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimum_core.types import TensorSpec
from optimum_core.verify import ReferenceCase, verify


@pytest.mark.parametrize(("precision", "passes"), [("fp64", False), ("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("field", ["large", "short"])
def test_edges_are_compared_in_all_but_16_bits(field: str, precision: str, passes: bool) -> None:
    flags: dict[str, Any] = {field: True}
    usual = ReferenceCase(name="usual", varied=frozenset(), inputs={"x": np.ones(2)}, outputs={"y": np.ones(2)})
    edge = replace(usual, name="edge", inputs={"x": np.zeros(2)}, **flags)
    spec = TensorSpec(name="y", dtype="float64", shape=(2,))
    assert verify(lambda inputs: {"y": inputs["x"]}, (usual, edge), (spec,), precision=precision).passed is passes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_output_in_32_bits_is_not_held_to_64(dtype: Any) -> None:
    want = np.array([[1.0, 2.0]], dtype)
    case = ReferenceCase(name="usual", varied=frozenset(), inputs={"x": want}, outputs={"y": want})
    spec = TensorSpec(name="y", dtype=want.dtype.name, shape=(1, 2))
    have = (want * (1 + 1e-6)).astype(dtype)
    assert verify(lambda inputs: {"y": have}, (case,), (spec,), precision="fp64").passed is (dtype is np.float32)
