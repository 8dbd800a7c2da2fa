"""Tests of sessions on one small model, for backends that open files: what they refuse, and how they say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import InputError, SessionError
from optimum_core.types import Artifact, TensorSpec

Load = Callable[..., Any]


def _spec(name: str, dtype: str = "float32", shape: tuple[int | str, ...] = ("batch", 8)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


class LinearSessionTests:
    """Derive a class whose name starts with `Test`, where these fixtures are.

    `linear` is an artifact, in which `y` is relu(x @ weight) for any batch: `x` has 8 columns, and `y` 64.
    `load(artifact)` opens it, and tells wrong interfaces.
    """

    def test_wrong_names(self, linear: Artifact, load: Load) -> None:
        session = load(linear)
        with pytest.raises(InputError, match="missing: x; unknown: z"):
            session.run({"z": np.ones((1, 8), np.float32)})
        with pytest.raises(InputError, match="unknown: z"):
            session.run({"x": np.ones((1, 8), np.float32), "z": np.ones(1)})

    @pytest.mark.parametrize(
        "value",
        [np.ones((1, 9), np.float32), np.ones((1, 8), np.int64), np.ones(8, np.float32)],
        ids=["length", "type", "rank"],
    )
    def test_wrong_arrays_are_session_errors(self, value: Any, linear: Artifact, load: Load) -> None:
        session = load(linear)
        with pytest.raises(SessionError, match=r"the run failed: .") as caught:
            session.run({"x": value})
        assert "x: float32['batch', 8]" in caught.value.remedy
        assert np.asarray(session.run({"x": np.ones((1, 8), np.float32)})["y"]).shape == (1, 64)

    def test_unreadable_values(self, linear: Artifact, load: Load) -> None:
        torch = pytest.importorskip("torch")
        session = load(linear)
        for value in (torch.ones(1, 8, requires_grad=True), [[1.0] * 8], torch.ones(1, 8, dtype=torch.bfloat16)):
            with pytest.raises(InputError, match="input 'x'"):
                session.run({"x": value})

    def test_closed(self, linear: Artifact, load: Load) -> None:
        session = load(linear)
        session.close()
        session.close()
        with pytest.raises(SessionError, match="closed"):
            session.run({"x": np.ones((1, 8), np.float32)})

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"inputs": (_spec("other"),)}, "the model has no input 'other'; the model also takes input 'x'"),
            ({"inputs": (_spec("x", "int64"),)}, "input 'x' is float32 in the model, not int64"),
            ({"inputs": (_spec("x", shape=("batch", 9)),)}, r"input 'x' is \[.*8\] in the model"),
            ({"inputs": (_spec("x", shape=("batch", "width")),)}, "input 'x'"),
            ({"inputs": (_spec("x", shape=(8,)),)}, "input 'x'"),
            ({"outputs": (_spec("logits"),)}, "the model has no output 'logits'"),
            ({"outputs": (_spec("y", shape=("batch", 2)),)}, "output 'y'"),
        ],
    )
    def test_another_models_manifest(self, changes: dict[str, Any], problem: str, linear: Artifact, load: Load) -> None:
        with pytest.raises(SessionError, match=problem):
            load(replace(linear, **changes))

    def test_an_axis_may_be_fixed_by_the_artifact(self, linear: Artifact, load: Load) -> None:
        fixed = replace(linear, inputs=(_spec("x", shape=(1, 8)),), outputs=(_spec("y", shape=(1, 64)),))
        assert load(fixed).inputs[0].shape == (1, 8)
