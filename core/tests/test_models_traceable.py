"""Traces of models that `export_ready` prepared, on other values and lengths than those of their samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from optimum_core.models.eager.calls import export_ready
from optimum_core.models.exporting import EngineRequest
from optimum_core.models.exporting.torchscript import write
from optimum_core.types import TensorSpec

Inputs = dict[str, torch.Tensor]
Exported = Callable[[torch.nn.Module, Inputs], Callable[[Inputs], Any]]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Export a module by tracing, both axes of each input varying; return the graph as a function."""

    def export(module: torch.nn.Module, samples: Inputs) -> Callable[[Inputs], Any]:
        path = tmp_path / "model.onnx"
        specs = [TensorSpec(name=name, dtype="float32", shape=("batch", "length")) for name in samples]
        output = TensorSpec(name="y", dtype="float32", shape=("batch", "length"))
        with export_ready(module.eval()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(
                EngineRequest(
                    module=module, samples=samples, inputs=tuple(specs), outputs=(output,), opset=18, path=path
                )
            )
        evaluator = ReferenceEvaluator(onnx.load(path))
        return lambda inputs: evaluator.run(["y"], {name: tensor.numpy() for name, tensor in inputs.items()})[0]

    return export


def _same(graph: Callable[[Inputs], Any], module: torch.nn.Module, inputs: Inputs) -> None:
    with torch.no_grad():
        np.testing.assert_allclose(graph(inputs), module(**inputs)["y"].numpy(), atol=1e-5)


class _Turned(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        turn = torch.polar(torch.ones_like(angles), angles) * 0.5
        pairs = torch.view_as_complex(x[..., None].repeat(1, 1, 4).reshape(*x.shape, 2, 2))
        turned = torch.view_as_real(pairs * turn[None, :, :].unsqueeze(0)[0].to(x.device)).flatten(2)
        return {"y": turned.sum(-1)}


def test_complex_rotations_are_written_in_real_numbers(exported: Exported) -> None:
    graph = exported(_Turned(), {"x": torch.randn(2, 3)})
    _same(graph, _Turned(), {"x": torch.randn(1, 7)})


class _Experts(torch.nn.Module):
    """Four experts, which multiply by their number; a row's first value chooses one."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        chosen = x[:, :1].long()
        mask = torch.nn.functional.one_hot(chosen, num_classes=4).permute(2, 1, 0)
        made = torch.zeros_like(x)
        for expert in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
            _, rows = torch.where(mask[expert].squeeze(0))
            made.index_add_(0, rows, x[rows] * (1.0 + float(f"{expert[0]}")))
        return {"y": made}


def test_experts_that_the_samples_did_not_use_are_exported(exported: Exported) -> None:
    graph = exported(_Experts(), {"x": torch.tensor([[1.0, 5.0], [1.0, 6.0]])})
    _same(graph, _Experts(), {"x": torch.tensor([[3.0, 5.0], [0.0, 6.0], [3.0, 7.0]])})


class _Sorted(torch.nn.Module):
    """Rows sorted by their expert and split, as JetMoE does; each goes to two places of the sum."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        chosen = x[:, 0].long()
        counts = torch.nn.functional.one_hot(chosen, num_classes=4).sum(0).tolist()
        order = chosen.sort(0)[1]
        parts = torch.split(x[order], counts)
        made = torch.cat([part * (1 + number) for number, part in enumerate(parts)])
        twice = torch.cat((made, made))
        return {"y": torch.zeros_like(x).index_add(0, torch.cat((order, order)), twice)}


def test_counts_of_tokens_are_not_fixed_and_sums_at_one_place_are_sums(exported: Exported) -> None:
    graph = exported(_Sorted(), {"x": torch.tensor([[1.0, 5.0], [2.0, 6.0], [1.0, 7.0]])})
    _same(graph, _Sorted(), {"x": torch.tensor([[3.0, 5.0], [0.0, 6.0]])})


class _Padded(torch.nn.Module):
    """Pads to a multiple of four, and takes the padding off again."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        padding = (4 - x.shape[1] % 4) % 4
        if padding > 0:
            x = torch.nn.functional.pad(x, (0, padding), value=1.0)
        made = x.cumsum(1) * math.ceil(0.3 * x.shape[1])
        return {"y": made[:, :-padding] if padding > 0 else made}


@pytest.mark.parametrize("length", [4, 5, 8, 11])
def test_padding_that_is_taken_off_may_be_none(exported: Exported, length: int) -> None:
    graph = exported(_Padded(), {"x": torch.randn(2, 6)})
    _same(graph, _Padded(), {"x": torch.randn(3, length)})


class _Overlapping(torch.nn.Module):
    """Windows of four that overlap by two, as Longformer's."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        wide = x[..., None].expand(*x.shape, 3).transpose(0, 1).reshape(x.shape[1], x.shape[0], 3).transpose(0, 1)
        cut = wide.view(wide.size(0), wide.size(1) // 4, 4, 3)
        size, stride = list(cut.size()), list(cut.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return {"y": cut.as_strided(size=size, stride=stride).sum((2, 3))}


@pytest.mark.parametrize("shape", [(1, 8), (3, 12)])
def test_overlapping_windows_follow_the_lengths(exported: Exported, shape: tuple[int, int]) -> None:
    graph = exported(_Overlapping(), {"x": torch.randn(2, 8)})
    _same(graph, _Overlapping(), {"x": torch.randn(*shape)})
