"""Weight-only quantization: smaller weights, the arithmetic in float.

8 bits are written as integers with a DequantizeLinear beside each weight, plain ONNX that every runtime reads;
onnxruntime turns it into its own MatMulNBits when it loads. 4 bits are written as onnxruntime's operators, or, where
`form` is "qdq", as DequantizeLinear over blocks, which other runtimes read. Embedding tables, often half of a file,
hold 8 bits with a scale for each row under all integer schemes: only rows that are looked up are ever turned to float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from optimum_core.errors import UnavailableError
from optimum_core.types import QuantizeConfig
from optimum_ort.layers import Kept
from optimum_ort.providers import BACKEND
from optimum_ort.quiet import quiet
from optimum_ort.tools import quantization

GROUP_SIZES = (16, 32, 64, 128, 256)
FOUR_BITS = ("int4", "uint4", "nf4")
_GROUP_SIZE = {"int4": 32, "uint4": 32, "nf4": 64}
# Smaller tensors, biases mostly, would gain nothing.
_LEAST_ELEMENTS = 256
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_FLOAT = 1  # onnx.TensorProto.FLOAT


def group_size(config: QuantizeConfig) -> int:
    """Weights that share a scale under 4 bits."""
    return config.group_size or _GROUP_SIZE[config.weights]


def quantize_weights(model: Any, config: QuantizeConfig, kept: Kept) -> Any:
    """`model`, an `onnx.ModelProto`, with weights in the format that `config` names.

    Raises:
        UnavailableError: algorithm "hqq" without torch.
    """
    if config.weights in FOUR_BITS:
        return _four_bits(model, config, kept)
    if config.weights == "fp16":
        halve(model, kept)
    else:
        _eight_bits(model, config, kept)
    return model


def quantize_embeddings(model: Any, kept: Kept) -> int:
    """Round embedding tables to 8 bits with a scale for each row; returns how many."""
    import numpy as np
    from onnx import helper, numpy_helper

    rewriter = _Rewriter(model)
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
    """Store large weights in half precision, turned to float where they are used; returns how many."""
    import numpy as np
    from onnx import helper, numpy_helper

    rewriter = _Rewriter(model)
    limit = float(np.finfo(np.float16).max)
    for node, name, weight in rewriter.weights((*_PRODUCTS, "Gather"), kept):
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


def _eight_bits(model: Any, config: QuantizeConfig, kept: Kept, operators: tuple[str, ...] = _PRODUCTS) -> None:
    from onnx import helper, numpy_helper

    rewriter = _Rewriter(model)
    signed = config.weights == "int8"
    symmetric = signed if config.symmetric is None else config.symmetric
    for node, name, weight in rewriter.weights(operators, kept):
        axis = None if config.per_channel is False else _channel_axis(node)
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


def _channel_axis(node: Any) -> int:
    """Where the output channels of a weight are."""
    if node.op_type == "Gemm":
        return 0 if any(item.name == "transB" and item.i for item in node.attribute) else 1
    return 1 if node.op_type == "MatMul" else 0


def _round(weight: Any, axis: int | None, *, signed: bool, symmetric: bool) -> tuple[Any, Any, Any]:
    """Integers, scales and zero points, with one scale for each index of `axis`."""
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
    with quiet("onnxruntime"):
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


def _sensitive(model: Any, config: QuantizeConfig, kept: Kept) -> list[str]:
    """The matrix products that `ratio` spares from 4 bits: those whose weights lose most by them."""
    if config.ratio in (None, 1):
        return []
    size = group_size(config)
    layers = _Rewriter(model).weights(("MatMul",), kept)
    losses = {node.name: _loss(weight, size) for node, _, weight in layers}
    spared = round(len(losses) * (1 - (config.ratio or 1)))
    return sorted(losses, key=losses.__getitem__, reverse=True)[:spared]


def _loss(weight: Any, size: int) -> float:
    """The squared error of rounding to 4 bits in groups of `size`, relative to the weights."""
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


class _Rewriter:
    """Replaces weights of a graph: collects what is new, and puts it in at the end."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._uses = Counter(_read_names(self._graph))
        self._new: dict[str, Any] = {}
        self._fed: dict[str, Any] = {}
        self._replaced: dict[str, list[Any]] = {}
        self._count = 0

    def weights(self, operators: tuple[str, ...], kept: Kept) -> Iterator[tuple[Any, str, Any]]:
        """Node, weight's name and array, for every large float weight of `operators` that is not kept.

        A weight that several nodes share comes once for each; left out are tables that serve another purpose too.
        """
        from onnx import numpy_helper

        users = Counter(
            name
            for node in self._graph.node
            if node.op_type in operators and not kept.holds(node)
            for name in node.input
        )
        for node in list(self._graph.node):
            if node.op_type not in operators or kept.holds(node):
                continue
            name = node.input[0 if node.op_type == "Gather" else 1]
            tensor = self._constants.get(name)
            if tensor is None or tensor.data_type != _FLOAT or users[name] != self._uses[name]:
                continue
            weight = numpy_helper.to_array(tensor)
            if weight.size >= _LEAST_ELEMENTS and _understood(node, weight):
                yield node, name, weight

    def add(self, *tensors: Any) -> None:
        self._new.update({tensor.name: tensor for tensor in tensors})

    def feed(self, node: Any, maker: Any) -> None:
        """Let `node` take its weight from what `maker` computes."""
        self._fed.setdefault(maker.name, maker)
        node.input[1] = maker.output[0]
        self._count += 1

    def replace(self, node: Any, *nodes: Any) -> None:
        self._replaced[node.name] = list(nodes)
        self._count += 1

    def finish(self) -> int:
        """Write it all into the graph, without the weights that nothing uses any more."""
        graph = self._graph
        nodes = list(self._fed.values())
        for node in graph.node:
            nodes += self._replaced.get(node.name, [node])
        # Copies: a message that is cleared takes its parts with it.
        copies = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        used = {*_read_names(graph), *(value.name for value in graph.output)}
        before = set(self._constants)
        constants = [
            _copy(t) for t in [*graph.initializer, *self._new.values()] if t.name in used or t.name not in before
        ]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        return self._count


def _read_names(graph: Any) -> Iterator[str]:
    """What the nodes of a graph read, those of branches and loops included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_names(inner)


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _understood(node: Any, weight: Any) -> bool:
    """Whether the weight has the shape that our rewriting is written for."""
    if node.op_type == "Conv":
        return bool(weight.ndim > 2)
    if node.op_type == "Gather" and any(item.name == "axis" and item.i != 0 for item in node.attribute):
        return False
    return bool(weight.ndim == 2)
