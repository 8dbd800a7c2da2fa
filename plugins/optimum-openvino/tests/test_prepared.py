"""Sessions prepared for the shapes of the workload, from `accelerate` to a loaded artifact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core import accelerate, load, measure
from optimum_core.artifact import load as read_manifest
from optimum_core.artifact import write
from optimum_core.types import CandidateResult
from optimum_openvino.session import OvSession


@pytest.fixture
def searched(tiny: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """Search by OpenVINO, with short timing, and return the results of the candidates prepared for these shapes."""
    effort = measure.Effort(rounds=2, seconds=0.02, steady=math.inf)
    module = tiny("bert features").module

    def search(*shapes: tuple[int, int]) -> list[CandidateResult]:
        with (
            measure.measuring(effort),
            accelerate(module, target="openvino", shapes=[*shapes], budget=0, cache_dir=tmp_path) as fast,
        ):
            assert fast.report is not None
            return [item for item in fast.report.candidates if item.options.get("prepared")]

    return search


def test_prepared_sessions_compete_and_are_checked_at_the_stated_shapes(
    searched: Callable[..., list[CandidateResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [item for item in searched((2, 9), (1, 5)) if item.fidelity is not None]
    assert right
    for item in right:
        assert item.fidelity is not None and item.fidelity.passed
        assert {timed.shape for timed in item.measurements} == {"2x9", "1x5"}
    filled = OvSession._filled

    def wrong_at_one_shape(self: OvSession, request: Any, form: Any) -> dict[str, Any]:
        made = filled(self, request, form)
        return {name: array + (array.shape[:2] == (1, 6)) for name, array in made.items()}

    monkeypatch.setattr(OvSession, "_filled", wrong_at_one_shape)
    wrong = [item for item in searched((2, 9), (1, 6)) if item.fidelity is not None]
    assert wrong
    for item in wrong:
        assert item.outcome == "wrong"
        assert item.reason.startswith("as in the workload, 1x6, last_hidden_state")


def test_an_artifact_opens_prepared_as_it_was_tuned(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    module = tiny("bert features").module
    fast = accelerate(module, target="openvino", shapes=[(2, 9)], budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "saved")
    manifest = read_manifest(tmp_path / "saved")
    write(tmp_path / "saved", replace(manifest, prepared=({"batch": 2, "sequence": 9},)))
    again: Any = load(tmp_path / "saved")
    assert list(again._session.prepared) == [((2, 9),) * len(manifest.inputs)]
    for shape in ((2, 9), (3, 4)):
        inputs = {"input_ids": np.arange(shape[0] * shape[1]).reshape(shape) % 90}
        for got, want in zip(again(**inputs).values(), fast(**inputs).values(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
