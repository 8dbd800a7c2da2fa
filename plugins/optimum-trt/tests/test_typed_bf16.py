"""The conversion to bf16, computed by onnx's reference evaluator: ONNX Runtime has no kernels for it on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from optimum_core.verify import verify
from optimum_trt.optimize import prepared


@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_values_are_near_eager(kind: str, tiny: Any, tmp_path: Path) -> None:
    model = tiny(kind)
    evaluator = ReferenceEvaluator(str(prepared(model.artifact, "bf16", tmp_path, "test")))
    names = [spec.name for spec in model.artifact.outputs]

    def run(inputs: Any) -> Any:
        # In rows without tokens every score is minus infinity: the graph replaces their NaN by zero, as torch does.
        with np.errstate(invalid="ignore"):
            return dict(zip(names, evaluator.run(names, dict(inputs)), strict=True))

    fidelity = verify(run, model.cases, model.artifact.outputs, precision="bf16")
    assert fidelity.passed, fidelity.worst
    assert max(result.relative_error for result in fidelity.results) > 1e-4, "it was rounded"
