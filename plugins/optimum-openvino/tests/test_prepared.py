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


def test_prepared_sessions_compete_and_are_checked_at_the_stated_shapes(
    tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort = measure.Effort(rounds=2, seconds=0.02, steady=math.inf)
    monkeypatch.setattr("optimum_core.measure.timing._override", effort)
    module = tiny("bert").source.module()
    with accelerate(module, target="openvino", shapes=[(2, 9), (1, 5)], budget=60, cache_dir=tmp_path) as fast:
        assert fast.report is not None
        found = {item.name: item for item in fast.report.candidates if item.backend == "openvino"}
    prepared = [item for item in found.values() if item.options.get("prepared")]
    raced = [item for item in prepared if item.fidelity is not None]
    assert raced
    for item in raced:
        plain = found[item.name.removesuffix(", prepared for the shapes")]
        assert item.fidelity is not None and item.fidelity.passed
        assert plain.fidelity is not None
        assert _compared(item.fidelity) > _compared(plain.fidelity), "the stated shapes themselves are checked too"


def test_an_artifact_opens_prepared_as_it_was_tuned(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    module = tiny("bert").source.module()
    fast = accelerate(module, target="openvino", shapes=[(2, 9)], budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "saved")
    manifest = read_manifest(tmp_path / "saved")
    write(tmp_path / "saved", replace(manifest, prepared=({"batch": 2, "sequence": 9},)))
    again: Any = load(tmp_path / "saved")
    assert list(again._session._prepared) == [((2, 9),) * len(manifest.inputs)]
    for shape in ((2, 9), (3, 4)):
        inputs = {"input_ids": np.arange(shape[0] * shape[1]).reshape(shape) % 90}
        for got, want in zip(again(**inputs).values(), fast(**inputs).values(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def _compared(fidelity: Any) -> int:
    return fidelity.compared or len(fidelity.results)
