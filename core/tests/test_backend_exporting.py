"""The workbench of backend authors, on exporting: requests are checked, and a model gets a face to trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import backend
from optimum_core.backend import tracing
from optimum_core.errors import OptionError
from optimum_core.types import ExportRequest, TensorSpec

WHO = "backend 'acme'"


def test_an_export_is_checked_before_it_begins(request_for: Callable[..., ExportRequest]) -> None:
    asked = request_for(torch.nn.Linear(8, 2))
    check = backend.check_export
    assert check(asked, "acme-ir", routes=("trace", "export")) == "trace"
    assert check(replace(asked, route="export"), "acme-ir", routes=("trace", "export")) == "export"
    assert check(asked, "acme-ir") == ""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"route": "magic"}, "unknown route 'magic'"),
        ({"format": "onnx"}, "it does not export 'onnx'"),
        ({"precision": "fp16"}, "it does not export in 'fp16'"),
    ]
    for changes, why in wrong:
        with pytest.raises(OptionError) as caught:
            check(replace(asked, **changes), "acme-ir", routes=("trace",), precisions=("fp32",))
        assert (caught.value.who, caught.value.why) == (WHO, why)


def test_what_was_exported_says_so(request_for: Callable[..., ExportRequest]) -> None:
    asked = request_for(torch.nn.Linear(8, 2))
    made = backend.exported(asked, ["model"], tool="acme", version="1", chosen={"route": "trace"}, precision="fp16")
    assert (made.format, made.path, made.files) == ("acme-ir", asked.output, ("model",))
    assert (made.inputs, made.outputs, made.precision) == (asked.inputs, asked.outputs, "fp16")
    (step,) = made.steps
    assert (step.hook, step.backend, step.version, step.options) == ("export", "acme", "1", {"route": "trace"})


class Sum(torch.nn.Module):
    """Takes its inputs in another order than they are asked for."""

    def forward(self, right: torch.Tensor, left: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"further": right, "difference": left - right}


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., ExportRequest]:
    names = ("left", "right")
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=("batch", 2)) for name in names)

    def made(module: Any) -> ExportRequest:
        class Source:
            name = "sum"

            def module(self) -> Any:
                return module

        source: Any = Source()
        return ExportRequest(
            backend="acme",
            source=source,
            task="none",
            format="acme-ir",
            precision="fp32",
            samples={"right": np.ones((2, 2), np.float32), "left": np.full((2, 2), 3, np.float32)},
            inputs=inputs,
            outputs=(replace(inputs[0], name="difference"),),
            output=tmp_path,
        )

    return made


def test_a_model_gets_a_plain_face(request_for: Callable[..., ExportRequest]) -> None:
    module = Sum()
    asked = request_for(module)
    samples = tracing.sample_tensors(asked)
    assert list(samples) == ["left", "right"]
    (flat,) = tracing.flat_module(module, asked)(*samples.values())
    named = tracing.named_module(module, asked)
    assert torch.equal(flat, torch.full((2, 2), 2.0))
    assert torch.equal(named(**samples)["difference"], flat)
    assert list(named(**samples)) == ["difference"] and list(inspect.signature(named).parameters) == ["left", "right"]


def test_a_program_varies_where_the_specs_say(request_for: Callable[..., ExportRequest]) -> None:
    module = Sum()
    asked = request_for(module)
    with tracing.ready_to_trace(module):
        samples = list(tracing.sample_tensors(asked).values())
        program = tracing.exported_program(tracing.flat_module(module, asked), samples, asked.inputs)
    (found,) = program.module()(torch.ones(5, 2), torch.zeros(5, 2))
    assert found.shape == (5, 2)


def test_a_backend_asks_its_own_hooks(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    asked = backend.export_request(tiny("bert"), "acme", "acme-ir", tmp_path)
    assert (asked.backend, asked.format, asked.precision, asked.output) == ("acme", "acme-ir", "fp32", tmp_path)
    assert {spec.name for spec in asked.inputs} >= {"input_ids", "attention_mask"}
    assert asked.samples.keys() == {spec.name for spec in asked.inputs}
