"""The precision of an ONNX file is read from its weights and operators; what nothing evaluates opens as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from onnx import load as read

from optimum_core import accelerate, load
from optimum_core.backend import put_beside
from optimum_core.errors import OptionError
from optimum_core.models.sources.onnx_graph import precision_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "kept"))


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
                q=np.ones((16, 16), np.int8), s=np.array(0.1, np.float32),
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
    fast = accelerate(tmp_path / "half.onnx", target="ort", budget=0)
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


def test_what_nothing_evaluates_opens_as_it_is_and_says_so(tmp_path: Path) -> None:
    fused = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=0.5)
    graph = _graph([fused], TensorProto.FLOAT, w=_W)
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    save(graph, tmp_path / "model.onnx")
    x = torch.linspace(-1, 1, 32).reshape(2, 16)
    for open_it in (accelerate, load):
        fast = open_it(tmp_path, target="ort")
        assert "unverified against an original, NOT compared" in repr(fast)
        assert not fast.manifest.verified and not fast.manifest.model.has_original
        assert torch.allclose(fast(x=x)["y"], x @ torch.as_tensor(_W) / 2, atol=1e-5)
    with pytest.raises(OptionError, match="operators outside the standard"):
        accelerate(tmp_path, target="ort", quantize="dynamic-int8")
    assert accelerate(tmp_path / "model.onnx").backend == "ort", "it optimizes ONNX, and knows such operators"


def test_weights_go_into_a_second_file_whatever_the_working_directory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"another model's")
    monkeypatch.chdir(tmp_path)
    (target := tmp_path / "target").mkdir()
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "v"], ["z"])], "inner", [], [value], [numpy_helper.from_array(_W, "v")]
    )
    nodes = [
        helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    model = _graph(nodes, TensorProto.FLOAT, w=_W, yes=np.array(True))
    put_beside(model.graph, "weights", least=_W.nbytes)
    save(model, target / "model.onnx")
    assert (target / "weights").stat().st_size == 3 * _W.nbytes
    found = read(target / "model.onnx").graph
    branch = found.node[0].attribute[0].g.initializer[0]
    for tensor in (found.initializer[0], branch):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), _W)
