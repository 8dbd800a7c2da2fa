"""Quantized ONNX, from optimum-ort where that is installed and written by hand, becomes engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimum_core.errors import ExportError
from optimum_core.hardware import detect
from optimum_core.models.inputs.samples import Case
from optimum_core.plugins import manager
from optimum_core.types import Artifact, OptimizeRequest, QuantizeConfig, QuantizeRequest
from optimum_trt.optimize import prepared

Make = Callable[..., OptimizeRequest]
Graph = Callable[..., Artifact]


_SIGNED = QuantizeConfig(weights="int8", activations="int8", symmetric=True)


@pytest.fixture(scope="session")
def quantized(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, QuantizeConfig], Artifact]:
    pytest.importorskip("optimum_ort")

    @cache
    def make(kind: str, config: QuantizeConfig) -> Artifact:
        model = tiny(kind)
        calibration = [model.signature.draw(Case(name="calibration", seed=seed)) for seed in (40, 41)]
        request = QuantizeRequest(
            backend="ort",
            artifact=model.artifact,
            config=config,
            hardware=detect(),
            output=tmp_path_factory.mktemp("quantized"),
            calibration=calibration,
        )
        return manager().quantize(request)

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_static_int8(kind: str, precision: str, quantized: Any, building: Make) -> None:
    source = quantized(kind, _SIGNED)
    made = manager().optimize(building(source, precision=precision))
    assert made.main_file.stat().st_size > 0
    assert made.precision == ("int8" if precision == "fp32" else "fp16")
    assert [step.hook for step in made.steps][-2:] == ["quantize", "optimize"]


@pytest.mark.parametrize(("kind", "config"), [("bert", _SIGNED), ("vit", _SIGNED)])
def test_what_is_parsed_has_the_values_of_what_was_quantized(
    kind: str, config: QuantizeConfig, quantized: Any, tiny: Any, on_cpu: Any, tmp_path: Path
) -> None:
    """Biases folded, tables dequantized, nodes in order: the same numbers; in fp16, up to its rounding."""
    source = quantized(kind, config)
    read = prepared(source, None, tmp_path, "test")
    assert read != source.main_file
    onnx.checker.check_model(read)
    for case in tiny(kind).cases:
        want, got = on_cpu(source.main_file, case.inputs), on_cpu(read, case.inputs)
        for name, value in want.items():
            assert np.abs(got[name] - value).max() <= 1e-5 * np.abs(value).max(), (case.name, name)


def test_weight_only_int8(quantized: Any, building: Make) -> None:
    source = quantized("bert", QuantizeConfig.named("weight-only-int8"))
    assert manager().optimize(building(source)).precision == "int8"


def test_unsigned_activations_are_refused_with_what_to_ask_for(graph: Graph, building: Make) -> None:
    """TensorRT's parser would take them for signed ones without a word."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["y"], name="dq"),
    ]
    source = graph(nodes, {"s": np.float32(0.1), "zero": np.uint8(0)}, y=("batch", 8))
    with pytest.raises(ExportError, match="unsigned 8-bit") as caught:
        manager().optimize(building(source))
    assert "activations 'int8'" in caught.value.remedy


def test_a_zero_point_beside_zero_is_refused_with_what_to_ask_for(graph: Graph, building: Make) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"], name="first"),
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["y"], name="dq"),
    ]
    source = graph(nodes, {"s": np.float32(0.1), "zero": np.int8(3)}, y=("batch", 8))
    with pytest.raises(ExportError, match=r"node 'first' \(QuantizeLinear\).*zero point") as caught:
        manager().optimize(building(source))
    assert "symmetric=True" in caught.value.remedy


def fp8(graph: Graph) -> Artifact:
    import ml_dtypes

    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    kind = TensorProto.FLOAT8E4M3FN
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "zero"], ["xd"], name="dq"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "zero"], ["wd"], name="dqw"),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product"),
    ]
    scaled = (weight / 0.02).astype(ml_dtypes.float8_e4m3fn)
    weights = {
        "xs": np.float32(0.05),
        "ws": np.float32(0.02),
        "zero": helper.make_tensor("zero", kind, [], [0.0]),
        "wq": helper.make_tensor("wq", kind, [8, 4], scaled.tobytes(), raw=True),
    }
    return graph(nodes, weights, opset=19)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fp8(precision: str, graph: Graph, building: Make) -> None:
    source = fp8(graph)
    for device in ("sm_89", "sm_120"):
        assert manager().optimize(building(source, device=device, precision=precision)).main_file.is_file()
    with pytest.raises(ExportError, match="HW-specific datatypes: fp8") as caught:
        manager().optimize(building(source, device="sm_86", precision=precision))
    assert "newer" in caught.value.remedy


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("block", [32, 128])
def test_int4_weights(block: int, precision: str, graph: Graph, building: Make) -> None:
    values = np.random.default_rng(0).integers(-8, 7, 128 * 64).tolist()
    scales = np.random.default_rng(1).random((128 // block, 64)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "s"], ["wd"], name="dqw", axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "wd"], ["y"], name="product"),
    ]
    weights = {"wq": helper.make_tensor("wq", TensorProto.INT4, [128, 64], values), "s": scales}
    source = graph(nodes, weights, x=("batch", 128), y=("batch", 64), opset=21)
    assert manager().optimize(building(source, precision=precision)).main_file.stat().st_size > 128 * 64 // 2


def test_onnx_runtimes_own_four_bits_are_not_read(quantized: Any, building: Make) -> None:
    source = quantized("bert", QuantizeConfig.named("weight-only-int4"))
    with pytest.raises(ExportError, match="MatMulNBits"):
        manager().optimize(building(source))
