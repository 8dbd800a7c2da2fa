"""ONNX files of other tools, as models: float and quantized, good and bad."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import optimum_core
from optimum_core import accelerate
from optimum_core.errors import OptionError, SourceError, UnavailableError

Tiny = Callable[[str], Any]
SHAPE = (3, 11)


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    mask = np.ones(SHAPE, dtype=np.int64)
    mask[1, 6:] = 0
    return {"input_ids": rng.integers(5, 119, size=SHAPE), "attention_mask": mask}


@pytest.fixture(scope="module")
def float_file(tiny: Tiny, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by torch alone, with names of axes of its own."""
    path = tmp_path_factory.mktemp("foreign") / "other.onnx"
    axes = {0: "b", 1: "s"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tiny("bert"),
            tuple(torch.as_tensor(array) for array in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "b"}},
            opset_version=17,
            dynamo=False,
        )
    return path


@pytest.fixture(scope="module")
def quantized_file(float_file: Path, inputs: dict[str, Any]) -> Path:
    """QDQ, by onnxruntime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Any]] = iter([inputs])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = float_file.with_name("quantized.onnx")
    options = {"MatMulConstBOnly": True}
    quantize_static(float_file, path, Reader(), QuantFormat.QDQ, op_types_to_quantize=["MatMul"], extra_options=options)
    return path


def test_a_float_file_gives_what_its_model_gave(
    tiny: Tiny, float_file: Path, inputs: dict[str, Any], tmp_path: Path
) -> None:
    fast = accelerate(float_file, target="ort", budget=0)
    want = tiny("bert")(**{name: torch.as_tensor(a) for name, a in inputs.items()})
    logits = want.logits.detach().numpy()
    assert np.allclose(fast(**inputs)["logits"], logits, atol=1e-3 * float(np.abs(logits).max()))
    fast.save_pretrained(tmp_path / "out")
    assert np.array_equal(optimum_core.load(tmp_path / "out")(**inputs)["logits"], fast(**inputs)["logits"])


def test_a_file_that_writes_no_text_names_its_checkpoint(float_file: Path) -> None:
    with pytest.raises(UnavailableError, match="accelerate the checkpoint that it was made from"):
        accelerate(float_file, target="ort", budget=0).generate("any")


def test_axes_are_proved_dynamic_by_the_evaluator(float_file: Path) -> None:
    fast = accelerate(float_file, target="ort", budget=0)
    assert all(isinstance(axis, str) for spec in fast.manifest.inputs for axis in spec.shape)
    assert fast.manifest.fidelity is not None and fast.manifest.verified


def test_a_quantized_file_runs_as_its_integers_say(quantized_file: Path, inputs: dict[str, Any]) -> None:
    import onnxruntime

    fast = accelerate(quantized_file, target="ort", budget=0)
    session = onnxruntime.InferenceSession(quantized_file, providers=["CPUExecutionProvider"])
    want = session.run(None, inputs)[0]
    error = np.linalg.norm(fast(**inputs)["logits"] - want) / np.linalg.norm(want)
    assert error < 0.1
    assert fast.manifest.verified
    kinds = {node.op_type for node in onnx.load(fast.directory / fast.manifest.model_files[0]).graph.node}
    assert kinds & {
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }


def test_what_is_quantized_is_not_quantized_again(quantized_file: Path) -> None:
    with pytest.raises(OptionError, match="quantized already"):
        accelerate(quantized_file, quantize="dynamic-int8")


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_damaged_file_is_refused(float_file: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "damaged.onnx"
    raw = float_file.read_bytes()
    path.write_bytes(raw[: len(raw) // 3] if content is None else content)
    with pytest.raises(SourceError, match=r"damaged\.onnx"):
        accelerate(path, target="ort")


def test_an_operator_that_no_backend_knows_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Secret", ["x"], ["y"], domain="com.acme")
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, ["n"])], [value("y", onnx.TensorProto.FLOAT, ["n"])]
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.acme", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "odd.onnx")
    with pytest.raises(SourceError, match=r"odd\.onnx(?s:.)*com\.acme"):
        accelerate(tmp_path / "odd.onnx", target="ort")
