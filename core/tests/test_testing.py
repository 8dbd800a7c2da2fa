"""The conformance kit on the built-in backends, and what its models are good for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optimum_core.errors import OptionError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.testing import BackendSuite
from optimum_core.testing.machine import Machine
from optimum_core.testing.models import KINDS, model
from optimum_core.types import Artifact
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


def test_outputs_that_are_mixed_up_would_show_in_the_plain_model() -> None:
    made = model("plain")
    assert len({spec.shape for spec in made.signature.outputs}) == 1 < len(made.signature.outputs)
    first, second = eager_outputs(made.source.module(), made.draw(1)).values()
    assert not relative_error(first, second) < TOLERANCES["int4"].relative


def test_a_machine_is_this_one_but_for_what_was_stated(hardware: Machine) -> None:
    here, there = detect(), hardware(system="macos", architecture="arm64", features={"neon"}, memory=1)
    assert (there.system, there.memory, there.gpus) == ("macos", 1, ())
    assert (there.cpu.architecture, there.cpu.features, there.cpu.usable_cores) == ("arm64", frozenset({"neon"}), 2)
    assert (there.cpu.model, there.system_version) == (here.cpu.model, here.system_version)
    assert hardware().cpu.features == here.cpu.features and hardware(usable_cores=1).cpu.usable_cores == 1


def test_a_model_is_exported_once_by_whom_writes_the_format(exported: Callable[..., Artifact]) -> None:
    saved = exported("bert features", "torch")
    assert (saved.format, saved.steps[0].backend) == ("torch", "torch") and saved.main_file.is_file()
    assert exported("bert features", "torch") is saved
    with pytest.raises(UnavailableError, match="no backend here exports to it"):
        exported("bert features", "stone")
    with pytest.raises(OptionError, match="use one of: bert"):
        exported("imaginary", "torch")
