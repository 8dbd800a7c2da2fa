"""The precision of an ONNX file is read from its weights and operators, and its tolerance applies to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

from optimum_core import accelerate, load
from optimum_core.models.sources.onnx_precision import precision_of


def _graph(nodes: list[Any], kind: int, **constants: np.ndarray[Any, Any]) -> Any:
    """Return a model that takes `x` and gives `y`, both of a type."""
    shape = ["batch", 16]
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


_W = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
_PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])
_HALF = _graph([_PRODUCT], TensorProto.FLOAT16, w=_W.astype(np.float16))


@pytest.mark.parametrize(
    ("graph", "name"),
    [
        (_graph([_PRODUCT], TensorProto.FLOAT, w=_W), "fp32"),
        (_HALF, "fp16"),
        (_graph([helper.make_node("Relu", ["x"], ["y"])], TensorProto.FLOAT16), "fp16"),
        (
            _graph(
                [helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT), _PRODUCT], TensorProto.FLOAT,
                h=_W.astype(np.float16),
            ),
            "weight-only-fp16",
        ),
        (
            _graph(
                [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), _PRODUCT], TensorProto.FLOAT,
                q=np.ones((16, 16), np.int8), s=np.float32(0.1).reshape(()),
            ),
            "weight-only-int8",
        ),
        (_graph([helper.make_node("Relu", ["x"], ["y"])], TensorProto.FLOAT), "fp32"),
    ],
)  # fmt: skip
def test_a_precision_is_read_from_weights_and_operators(graph: Any, name: str) -> None:
    assert precision_of(graph) == name


def test_a_file_in_16_bits_is_held_to_their_tolerance(tmp_path: Path) -> None:
    save(_HALF, tmp_path / "half.onnx")
    fast = accelerate(tmp_path / "half.onnx", target="ort", budget=0, cache_dir=tmp_path / "cache")
    assert fast.manifest.fidelity is not None
    assert (fast.manifest.precision, fast.manifest.fidelity.precision, fast.manifest.quantized) == ("fp16",) * 2 + (
        None,
    )
    assert "fp16" in repr(fast)
    x = torch.linspace(-1, 1, 32, dtype=torch.float16).reshape(2, 16)
    want = x.float() @ torch.as_tensor(_W)
    fast.save_pretrained(tmp_path / "out")
    for model in (fast, load(tmp_path / "out", target="ort")):
        assert torch.allclose(model(x=x)["y"].float(), want, atol=1e-2)
        assert model.manifest.precision == "fp16"
