"""Static and dynamic quantization: matrix products and convolutions in 8-bit integers.

Everything else stays in float, and so do their results: the kernel of an integer product (MatMulIntegerToFloat) returns
floats, while a rounded sum, softmax or normalization costs accuracy and gains no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.backend import overflows, silence
from optimum_core.types import Hardware, QuantizeConfig
from optimum_ort.calibration import Batches, find_ranges
from optimum_ort.layers import Kept
from optimum_ort.quantization_tools import quantization

_PRODUCTS = ["MatMul", "Gemm", "Conv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A configuration with every choice made."""

    weights: str
    activations: str
    symmetric: bool
    per_channel: bool
    reduce_range: bool
    form: str


def choose(config: QuantizeConfig, hardware: Hardware) -> Choices:
    """Fill in the choices that `config` leaves to this backend."""
    default_form = "qdq" if config.scheme == "static" else "qoperator"
    return Choices(
        weights=config.weights,
        activations=config.activations or "uint8",
        symmetric=config.weights == "int8" if config.symmetric is None else config.symmetric,
        per_channel=True if config.per_channel is None else config.per_channel,
        reduce_range=overflows(hardware.cpu) if config.reduce_range is None else config.reduce_range,
        form=config.form or default_form,
    )


def quantize_static(
    path: Path, config: QuantizeConfig, choices: Choices, kept: Kept, batches: Batches, scratch: Path, *, external: bool
) -> Any:
    """Return the `onnx.ModelProto` at `path` with integer products, ranges from `batches`."""
    ranges = find_ranges(path, config, batches, _PRODUCTS, scratch, external=external)
    tools = quantization()
    model = _with_shapes(path)
    options = {
        "WeightSymmetric": choices.symmetric,
        "ActivationSymmetric": choices.activations == "int8",
        "MatMulConstBOnly": True,
        "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
    }
    arguments: tuple[Any, ...] = (
        _type(choices.weights),
        _type(choices.activations),
        ranges,
        [],
        _left_out(model, kept),
        _PRODUCTS,
    )
    if choices.form == "qdq":
        with silence("onnxruntime"):
            quantizer = tools.QDQQuantizer(model, choices.per_channel, choices.reduce_range, *arguments, options)
            quantizer.quantize_model()
        return quantizer.model.model
    return _integer_operators(model, choices, arguments, options, static=True)


def quantize_dynamic(path: Path, choices: Choices, kept: Kept) -> Any:
    """Return the `onnx.ModelProto` at `path` with integer matrix products, ranges found in every call.

    Convolutions stay in float: onnxruntime has no fast kernel for them in this form.
    """
    model = _with_shapes(path)
    options = {"WeightSymmetric": choices.symmetric, "MatMulConstBOnly": True}
    arguments: tuple[Any, ...] = (_type(choices.weights), _type("uint8"), None, [], _left_out(model, kept), ["MatMul"])
    return _integer_operators(model, choices, arguments, options, static=False)


def _integer_operators(
    model: Any, choices: Choices, arguments: tuple[Any, ...], options: dict[str, Any], *, static: bool
) -> Any:
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode

    mode = QuantizationMode.QLinearOps if static else QuantizationMode.IntegerOps
    with silence("onnxruntime"):
        quantizer = ONNXQuantizer(model, choices.per_channel, choices.reduce_range, mode, static, *arguments, options)
        quantizer.quantize_model()
    return quantizer.model.model


def _with_shapes(path: Path) -> Any:
    quantization()
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    return load_model_with_shape_infer(path)


def _left_out(model: Any, kept: Kept) -> list[str]:
    """Return the names of the excluded nodes: those kept in float, and products of two activations, which cost
    accuracy.

    A kept Gemm has to be found again after the dynamic quantizer has split it.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if kept.holds(node) or (node.op_type == "MatMul" and node.input[1] not in constants):
            names += [node.name, f"{node.name}_MatMul"]
    return names


def _type(name: str) -> Any:
    types = quantization().QuantType
    return types.QInt8 if name == "int8" else types.QUInt8
