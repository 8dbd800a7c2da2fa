"""Models in float64: they are held to what that promises, and not to the 32 bits in which runtimes compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from optimum_core import accelerate
from optimum_core.errors import VerificationError

VALUES = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def double() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 4)).double().eval()


def test_a_runtime_that_computes_in_32_bits_is_wrong_for_it(double: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"(.|\n)*1e-09(.|\n)*pass model\.float\(\)"):
        accelerate(double, sample_inputs={"input": VALUES[:2]}, target="openvino", budget=1, cache_dir=tmp_path)


def test_what_is_returned_has_the_values_of_64_bits(double: torch.nn.Module, tmp_path: Path) -> None:
    with accelerate(double, sample_inputs={"input": VALUES[:2]}, budget=1, cache_dir=tmp_path) as fast:
        fidelity = fast.manifest.fidelity
        assert fidelity is not None and fidelity.tolerance == 1e-9
        torch.testing.assert_close(fast(VALUES), double(VALUES).detach(), rtol=1e-9, atol=1e-12)


def test_32_bits_are_taken_where_they_are_asked_for(double: torch.nn.Module, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"sample_inputs": {"input": VALUES[:2]}, "target": "openvino", "precision": "fp32"}
    with accelerate(double, budget=1, cache_dir=tmp_path, **asked) as fast:
        assert fast.manifest.backend == "openvino"
        torch.testing.assert_close(fast(VALUES), double(VALUES).detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(8, 4).double()


@pytest.fixture
def file(linear: torch.nn.Linear, tmp_path: Path) -> Path:
    """Return the linear layer as a file of ONNX."""
    weights = [from_array(tensor.numpy(), name) for name, tensor in linear.state_dict().items()]
    nodes = [helper.make_node("Gemm", ["input", "weight", "bias"], ["y"], transB=1)]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch", width])]
        for name, width in (("input", 8), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "linear", *values, weights)
    place = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place)
    return place


def test_a_file_in_64_bits_is_held_to_them(linear: torch.nn.Linear, file: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"(.|\n)*1e-09(.|\n)*precision='fp32'"):
        accelerate(file, target="openvino", budget=1, cache_dir=tmp_path)
    with accelerate(file, target="ort", budget=1, cache_dir=tmp_path) as fast:
        assert fast.manifest.fidelity is not None and fast.manifest.fidelity.tolerance == 1e-9
        torch.testing.assert_close(fast(input=VALUES)["y"], linear(VALUES).detach(), rtol=1e-12, atol=1e-14)
    with accelerate(file, target="openvino", precision="fp32", budget=1, cache_dir=tmp_path) as fast:
        torch.testing.assert_close(fast(input=VALUES)["y"], linear(VALUES).detach(), rtol=1e-4, atol=1e-5)


def test_one_table_in_64_bits_asks_for_no_more_than_32(tmp_path: Path) -> None:
    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 4)
            self.register_buffer("table", torch.randn(1000, 4, dtype=torch.float64))

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            table: Any = self.table
            return torch.add(self.linear(input), table[:1].float())

    torch.manual_seed(0)
    asked: dict[str, Any] = {"sample_inputs": {"input": VALUES[:2].float()}, "target": "openvino"}
    with accelerate(Looking().eval(), budget=1, cache_dir=tmp_path, **asked) as fast:
        fidelity = fast.manifest.fidelity
        assert fidelity is not None and fidelity.precision == "fp32"
