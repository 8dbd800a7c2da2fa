"""The conformance kit on the built-in backends, and what its models are good for."""

from __future__ import annotations

import numpy as np

from optimum_core.models.eager_calls import eager_outputs
from optimum_core.testing import BackendSuite
from optimum_core.testing.models import KINDS, model
from optimum_core.verify import TOLERANCES, relative_error


class TestTorch(BackendSuite):
    backend = "torch"


class TestOnnx(BackendSuite):
    backend = "onnx"


def test_a_wrong_mask_would_show_in_the_text_model() -> None:
    made = model("text")
    case = next(case for case in made.cases if not case.inputs["attention_mask"].all())
    unmasked = {**case.inputs, "attention_mask": np.ones_like(case.inputs["attention_mask"])}
    want, wrong = case.outputs["logits"], eager_outputs(made.source.module(), unmasked)["logits"]
    assert relative_error(want, wrong) > 10 * TOLERANCES["fp32"].relative


def test_every_model_varies_the_batch() -> None:
    for kind in KINDS:
        assert "batch" in model(kind).signature.axes
