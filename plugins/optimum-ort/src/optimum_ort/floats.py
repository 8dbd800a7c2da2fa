"""Static quantization to 8-bit floats (E4M3: 4 bits of exponent, 3 of mantissa, at most 448), for runtimes of GPUs.

The result is plain ONNX of opset 19: QuantizeLinear and DequantizeLinear before the products with constant weights, a
scale for each channel of the weights and one for each tensor of activations, no zero points. A scale maps the largest
value to 448, so that nothing is clipped. Onnxruntime's own method for this format matches standard deviations instead,
which clips everything above 4.5 of them: the outliers that transformers rely on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_core.errors import ExportError, OptionError
from optimum_core.types import QuantizeConfig
from optimum_ort.calibration import Batches, find_ranges
from optimum_ort.layers import Kept
from optimum_ort.rewriter import PRODUCTS, Rewriter, channel_axis

LARGEST = 448.0
_FLOAT8 = 17  # onnx.TensorProto.FLOAT8E4M3FN
# The first opset with 8-bit floats; graphs of the opset before are valid in it.
_OPSET = 19


def quantize_floats(
    path: Path, config: QuantizeConfig, kept: Kept, batches: Batches, scratch: Path, *, external: bool, who: str
) -> Any:
    """Return the `onnx.ModelProto` at `path` with products of 8-bit floats, ranges of activations from `batches`.

    Raises:
        OptionError: its opset is too old.
        ExportError: an activation is infinite or NaN on the calibration data.
    """
    import onnx

    model = onnx.load(path)
    _raise_opset(model, who)
    ranges = find_ranges(path, config, batches, list(PRODUCTS), scratch, external=external)
    largest = _largest(ranges, model.graph, who)
    rewriter, rounded = Rewriter(model), set[str]()
    for node, name, weight in rewriter.weights(PRODUCTS, kept):
        read = node.input[0]
        if read not in largest:  # a constant
            continue
        axis = None if config.per_channel is False else channel_axis(node)
        _feed_weight(rewriter, node, name, weight, axis)
        pair = _round_activation(rewriter, read, largest[read]) if read not in rounded else ()
        rewriter.replace(node, *pair, node)
        rounded.add(read)
        node.input[0] = f"{read}_dequantized"
    rewriter.finish()
    return model


def _raise_opset(model: Any, who: str) -> None:
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx") and item.version < _OPSET:
            if item.version < _OPSET - 1:
                why = f"it is of opset {item.version}, which has no 8-bit floats"
                raise OptionError(who, why, f"export it with opset {_OPSET - 1} or newer")
            item.version = _OPSET


def _largest(ranges: Any, graph: Any, who: str) -> dict[str, float]:
    """Return the largest magnitude of each activation, in the order in which the graph computes them.

    Raises:
        ExportError: one is not finite; the first is named, not one that follows from it.
    """
    import numpy as np

    sizes = {name: float(np.max(np.abs(data.range_value))) for name, data in ranges.items()}
    names = (*(value.name for value in graph.input), *(name for node in graph.node for name in node.output))
    found = {name: sizes[name] for name in names if name in sizes}
    for name, value in found.items():
        if not np.isfinite(value):
            why = f"tensor {name!r} is {value} on the data for calibration"
            raise ExportError(who, why, "exclude the layer that it belongs to, or give other data")
    return found


def _feed_weight(rewriter: Rewriter, node: Any, name: str, weight: Any, axis: int | None) -> None:
    """Make a product read its weight in 8 bits, with a scale for each index of `axis`."""
    import ml_dtypes
    import numpy as np
    from onnx import helper, numpy_helper

    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis)
    scale = _scale(np.abs(weight).max(axis=others, keepdims=True))
    values = np.clip(weight / scale, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    scale = scale.reshape(() if axis is None else (-1,))
    base = f"{name}_{axis}"  # nodes that share a weight may read it along different axes
    rewriter.add(
        helper.make_tensor(f"{base}_float8", _FLOAT8, weight.shape, values.tobytes(), raw=True),
        numpy_helper.from_array(scale, f"{base}_scale"),
        _zeros(f"{base}_zero_point", scale.shape),
    )
    parts = [f"{base}_{part}" for part in ("float8", "scale", "zero_point")]
    attributes = {} if axis is None else {"axis": axis}
    maker = helper.make_node(
        "DequantizeLinear", parts, [f"{base}_dequantized"], name=f"{base}_dequantize", **attributes
    )
    rewriter.feed(node, maker)


def _round_activation(rewriter: Rewriter, name: str, largest: float) -> tuple[Any, Any]:
    """Return the two nodes that round an activation."""
    import numpy as np
    from onnx import helper, numpy_helper

    scale, zero, rounded = f"{name}_scale", f"{name}_zero_point", f"{name}_float8"
    rewriter.add(numpy_helper.from_array(_scale(np.float32(largest)), scale), _zeros(zero, ()))
    return (
        helper.make_node("QuantizeLinear", [name, scale, zero], [rounded], name=f"{name}_quantize"),
        helper.make_node(
            "DequantizeLinear", [rounded, scale, zero], [f"{name}_dequantized"], name=f"{name}_dequantize"
        ),
    )


def _scale(largest: Any) -> Any:
    """Return the scale that maps `largest` to 448, in fp32.

    It is rounded up to 8 bits of mantissa, which costs floats nothing: in fp16 or bf16 it is the same number, so that
    multiplication undoes the division exactly.
    """
    import ml_dtypes
    import numpy as np

    exact = np.asarray(np.where(largest > 0, largest, LARGEST) / LARGEST, np.float32)
    rounded = exact.astype(ml_dtypes.bfloat16)
    above = np.nextafter(rounded, np.asarray(np.inf, ml_dtypes.bfloat16))
    return np.where(rounded.astype(np.float32) < exact, above, rounded).astype(np.float32)


def _zeros(name: str, shape: tuple[int, ...]) -> Any:
    """Return zero points, which only declare the format."""
    import math

    from onnx import helper

    return helper.make_tensor(name, _FLOAT8, shape, bytes(math.prod(shape)), raw=True)
