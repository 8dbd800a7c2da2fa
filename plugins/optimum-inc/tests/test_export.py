from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import ExportError, OptionError
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.types import Artifact, ExportRequest, TensorSpec
from optimum_inc import plugin
from optimum_inc.programs import axis_limits, load


def test_the_graph_agrees_with_eager_at_every_shape(exported: Artifact, bert: Any) -> None:
    assert (exported.format, exported.files) == ("torch-export", ("model.pt2",))
    program = load(exported.main_file, exported.inputs, exported.outputs, "test")
    assert axis_limits(program, exported.inputs) == {"sequence": 64}
    graph = program.module(check_guards=False)
    for case in bert.cases:
        with torch.no_grad():
            (got,) = graph(*(torch.as_tensor(case.inputs[spec.name]) for spec in exported.inputs))
        np.testing.assert_allclose(got.numpy(), case.outputs["logits"], rtol=1e-3, atol=1e-5, err_msg=case.name)


def test_what_is_unknown_is_refused(bert: Any, tmp_path: Path) -> None:
    for changes in ({"format": "onnx"}, {"route": "fast"}, {"precision": "bf16"}, {"options": {"fast": 1}}):
        with pytest.raises(OptionError):
            plugin.export(bert.request(tmp_path, **changes))
    assert plugin.export(bert.request(tmp_path, backend="other")) is None
    assert not list(tmp_path.iterdir())


class _Fixed(torch.nn.Module):
    """Works at one length alone."""

    def __init__(self) -> None:
        super().__init__()
        self.places = torch.nn.Parameter(torch.ones(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.places


class _Undecided(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def _request(module: Any, output: Path) -> ExportRequest:
    samples = {"x": np.ones((3, 7), np.float32)}
    source = MemorySource(module.eval())
    signature = describe(source.module(), name="odd", samples=samples)
    varying = TensorSpec(name="x", dtype="float32", shape=("batch", "length"))
    return ExportRequest(
        backend="inc",
        source=source,
        task=signature.task,
        format="torch-export",
        precision="fp32",
        samples=samples,
        inputs=(varying,),
        outputs=signature.outputs,
        output=output,
    )


def test_an_axis_that_comes_out_fixed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="axis 'length' of 'x' came out fixed at 7"):
        plugin.export(_request(_Fixed(), tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="export of _Undecided"):
        plugin.export(_request(_Undecided(), tmp_path))
