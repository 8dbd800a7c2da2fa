"""Weight-only quantization: smaller weights, with arithmetic in float.

8 bits are written as integers with a DequantizeLinear beside each weight, plain ONNX that every runtime reads;
onnxruntime turns it into its own MatMulNBits when it loads. 4 bits are written as onnxruntime's operators, or, where
`form` is "qdq", as DequantizeLinear over blocks, which other runtimes read. Embedding tables, often half of a file, get
8 bits with a scale for each row under all integer schemes: only rows that are looked up are ever converted to float.
"""

from __future__ import annotations

from typing import Any

from optimum_core.backend import silence
from optimum_core.errors import UnavailableError
from optimum_core.types import QuantizeConfig
from optimum_ort.devices import BACKEND
from optimum_ort.layers import Kept
from optimum_ort.quantization_tools import quantization
from optimum_ort.rewriter import PRODUCTS, Rewriter, channel_axis

GROUP_SIZES = (16, 32, 64, 128, 256)
FOUR_BITS = ("int4", "uint4", "nf4")
_GROUP_SIZE = {"int4": 32, "uint4": 32, "nf4": 64}
_FLOAT = 1  # onnx.TensorProto.FLOAT


def group_size(config: QuantizeConfig) -> int:
    """Return the number of weights that share a scale under 4 bits."""
    return config.group_size or _GROUP_SIZE[config.weights]


def quantize_weights(model: Any, config: QuantizeConfig, kept: Kept) -> Any:
    """Return `model`, an `onnx.ModelProto`, with weights in the format that `config` names. Under "dynamic", products
    with 4-bit weights round their activations to 8 bits in every call.

    Raises:
        UnavailableError: algorithm "hqq" without torch.
    """
    if config.weights in FOUR_BITS:
        made = _four_bits(model, config, kept)
        if config.scheme == "dynamic":
            _multiply_integers(made)
        return made
    if config.weights == "fp16":
        halve(model, kept)
    else:
        _eight_bits(model, config, kept)
    return model


def quantize_embeddings(model: Any, kept: Kept) -> int:
    """Round embedding tables to 8 bits with a scale for each row; return their number."""
    import numpy as np
    from onnx import helper, numpy_helper

    rewriter = Rewriter(model)
    for node, name, weight in rewriter.weights(("Gather",), kept):
        largest = np.abs(weight).max(axis=1, keepdims=True)
        scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
        rounded = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        rewriter.add(numpy_helper.from_array(rounded, f"{name}_rows"), numpy_helper.from_array(scale, f"{name}_scale"))
        ids, out, at = node.input[1], node.output[0], node.name
        rewriter.replace(
            node,
            helper.make_node("Gather", [f"{name}_rows", ids], [f"{out}_rows"], name=f"{at}_rows", axis=0),
            helper.make_node("Cast", [f"{out}_rows"], [f"{out}_float"], name=f"{at}_float", to=_FLOAT),
            helper.make_node("Gather", [f"{name}_scale", ids], [f"{out}_scale"], name=f"{at}_scale", axis=0),
            helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out], name=f"{at}_scaled"),
        )
    return rewriter.finish()


def halve(model: Any, kept: Kept) -> int:
    """Store large weights in half precision, cast to float where they are used; return their number."""
    import numpy as np
    from onnx import helper, numpy_helper

    rewriter = Rewriter(model)
    limit = float(np.finfo(np.float16).max)
    for node, name, weight in rewriter.weights((*PRODUCTS, "Gather"), kept):
        if np.abs(weight).max() > limit:
            continue
        half = f"{name}_half"
        rewriter.add(numpy_helper.from_array(weight.astype(np.float16), half))
        if node.op_type == "Gather":
            out, at = node.output[0], node.name
            rewriter.replace(
                node,
                helper.make_node("Gather", [half, node.input[1]], [f"{out}_half"], name=f"{at}_half", axis=0),
                helper.make_node("Cast", [f"{out}_half"], [out], name=f"{at}_float", to=_FLOAT),
            )
        else:
            cast = helper.make_node("Cast", [half], [f"{name}_float"], name=f"{name}_float", to=_FLOAT)
            rewriter.feed(node, cast)
    return rewriter.finish()


def _eight_bits(model: Any, config: QuantizeConfig, kept: Kept, operators: tuple[str, ...] = PRODUCTS) -> None:
    from onnx import helper, numpy_helper

    rewriter = Rewriter(model)
    signed = config.weights == "int8"
    symmetric = signed if config.symmetric is None else config.symmetric
    for node, name, weight in rewriter.weights(operators, kept):
        axis = None if config.per_channel is False else channel_axis(node)
        rounded, scale, zero = _round(weight, axis, signed=signed, symmetric=symmetric)
        base = f"{name}_{axis}"  # nodes that share a weight may read it along different axes
        parts = {f"{base}_quantized": rounded, f"{base}_scale": scale, f"{base}_zero_point": zero}
        rewriter.add(*(numpy_helper.from_array(array, part) for part, array in parts.items()))
        attributes = {} if axis is None else {"axis": axis}
        made = helper.make_node(
            "DequantizeLinear", list(parts), [f"{base}_dequantized"], name=f"{base}_dequantize", **attributes
        )
        rewriter.feed(node, made)
    rewriter.finish()


def _round(weight: Any, axis: int | None, *, signed: bool, symmetric: bool) -> tuple[Any, Any, Any]:
    """Return integers, scales and zero points, with one scale for each index of `axis`."""
    import numpy as np

    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis)
    lowest, highest = (np.asarray(extreme(weight, axis=others, keepdims=True)) for extreme in (np.min, np.max))
    kind = np.int8 if signed else np.uint8
    least, most = (-127 if symmetric else -128, 127) if signed else (1 if symmetric else 0, 255)
    if symmetric:
        highest = np.maximum(np.abs(lowest), np.abs(highest))
        lowest = -highest
    lowest, highest = np.minimum(lowest, 0), np.maximum(highest, 0)
    span = np.where(highest > lowest, highest - lowest, 1)
    scale = (span / (most - least)).astype(np.float32)
    zero = np.clip(np.rint(least - lowest / scale), least, most)
    rounded = np.clip(np.rint(weight / scale) + zero, least, most).astype(kind)
    shape = () if axis is None else (-1,)
    return rounded, scale.reshape(shape), zero.astype(kind).reshape(shape)


def _four_bits(model: Any, config: QuantizeConfig, kept: Kept) -> Any:
    quantization()
    from onnxruntime.quantization.onnx_model import ONNXModel

    make = _nf4 if config.weights == "nf4" else _int4
    with silence("onnxruntime"):
        edited = ONNXModel(model)
        edited.replace_gemm_with_matmul()
        float_nodes = [node.name for node in edited.model.graph.node if kept.holds(node)]
        sensitive = _sensitive(edited.model, config, kept)
        quantizer = make(edited.model, config, float_nodes + sensitive)
        quantizer.process()
    made = quantizer.model.model
    if sensitive:
        _eight_bits(made, QuantizeConfig(scheme="weight-only"), kept, ("MatMul",))
    return made


def _multiply_integers(model: Any) -> None:
    """Set the operator's accuracy level to 4, products of integers."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        found = [item for item in node.attribute if item.name == "accuracy_level"]
        for item in found:
            item.i = 4
        if not found:
            node.attribute.append(helper.make_attribute("accuracy_level", 4))


def _sensitive(model: Any, config: QuantizeConfig, kept: Kept) -> list[str]:
    """Return the matrix products that `ratio` keeps from 4 bits: those whose weights lose most by them."""
    if config.ratio in (None, 1):
        return []
    size = group_size(config)
    layers = Rewriter(model).weights(("MatMul",), kept)
    losses = {node.name: _loss(weight, size) for node, _, weight in layers}
    spared = round(len(losses) * (1 - (config.ratio or 1)))
    return sorted(losses, key=losses.__getitem__, reverse=True)[:spared]


def _loss(weight: Any, size: int) -> float:
    """Return the squared error of rounding to 4 bits in groups of `size`, relative to the weights."""
    import numpy as np

    padded = np.pad(weight, ((0, -len(weight) % size), (0, 0)))
    groups = padded.reshape(-1, size, weight.shape[1])
    lowest, highest = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = np.where(highest > lowest, highest - lowest, 1) / 15
    error = np.rint((groups - lowest) / step) * step + lowest - groups
    return float(np.square(error).sum() / max(np.square(weight).sum(), np.finfo(np.float32).tiny))


def _nf4(model: Any, config: QuantizeConfig, left_out: list[str]) -> Any:
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    return MatMulBnb4Quantizer(model, MatMulBnb4Quantizer.NF4, group_size(config), left_out)


def _int4(model: Any, config: QuantizeConfig, left_out: list[str]) -> Any:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    form = QuantFormat.QDQ if config.form == "qdq" else QuantFormat.QOperator
    common: dict[str, Any] = {"block_size": group_size(config), "bits": 4, "quant_format": form}
    if config.algorithm == "hqq":
        try:
            import torch  # noqa: F401  onnxruntime rounds with it
        except ImportError as error:
            who = f"backend '{BACKEND}', algorithm 'hqq'"
            raise UnavailableError(who, "torch is not installed", "pip install torch, or use 'rtn'") from error
        how: Any = nbits.HQQWeightOnlyQuantConfig(**common)
    else:
        how = nbits.DefaultWeightOnlyQuantConfig(is_symmetric=bool(config.symmetric), **common)
    return nbits.MatMulNBitsQuantizer(model, nodes_to_exclude=left_out, algo_config=how)
