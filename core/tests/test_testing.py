"""The conformance kit on the built-in backends, and what its models are good for."""

from __future__ import annotations

import numpy as np

from optimum_core.testing import BackendSuite
from optimum_core.testing.models import model


class TestTorch(BackendSuite):
    backend = "torch"


class TestOnnx(BackendSuite):
    backend = "onnx"


def test_a_wrong_mask_would_show_in_the_text_model() -> None:
    made = model("text")
    case = next(case for case in made.cases if not case.inputs["attention_mask"].all())
    session = made.source.module()
    from optimum_core.models.flat import eager_outputs

    unmasked = {**case.inputs, "attention_mask": np.ones_like(case.inputs["attention_mask"])}
    want, wrong = case.outputs["logits"], eager_outputs(session, unmasked)["logits"]
    assert np.abs(want - wrong).max() > 0.05 * np.abs(want).max()


def test_every_model_varies_the_batch() -> None:
    for kind in ("text", "vision", "plain"):
        assert "batch" in model(kind).blueprint.axes
