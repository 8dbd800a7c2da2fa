"""Reference evaluation of ONNX, operator by operator: slow, and used to check graphs that no runtime here runs.

It is onnx's own evaluator, with the operators that take nearly all of its time computed by numpy and torch. 16-bit
products are computed in fp32 and then rounded: numpy has no fast ones, and processors with 16-bit products accumulate
in more bits than they store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_core.errors import OptionError, SessionError
from optimum_core.options import no_options
from optimum_core.types.arrays import ArrayMapping, NDArray

if TYPE_CHECKING:
    from optimum_core.types import Array, SessionRequest, TensorSpec

# From this opset on, the evaluator has QuantizeLinear and DequantizeLinear for every type.
_EVALUATED = 21
#: Products of two 8-bit values of which fp32 holds the sum to the digit, whatever they are: 2**24 / 255**2.
_EXACT_SUM = 256
_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


def evaluator(path: Path) -> tuple[Any, Any]:
    """Return the `onnx.ModelProto` at `path`, and onnx's evaluator of it.

    Raises:
        Exception: of any kind, for a damaged file or an operator that the evaluator does not know.
    """
    import onnx
    from onnx.inliner import inline_local_functions
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load(path)
    if proto.functions:  # the evaluator forgets those of the model in graphs that it converts
        proto = inline_local_functions(proto)
    return proto, ReferenceEvaluator(_modern(proto), new_ops=_operators())


def evaluate(evaluated: Any, names: Sequence[str], given: ArrayMapping) -> Sequence[Any]:
    """Return the outputs by these names, without numpy's warnings: the comparison finds overflows and NaN."""
    with np.errstate(all="ignore"):
        values: Sequence[Any] = evaluated.run(list(names), given)
    return values


def open_graph(request: SessionRequest) -> GraphSession:
    """Open an ONNX artifact in the evaluator.

    Raises:
        OptionError: the requested precision is not the artifact's, or an option is stated: there are none.
        SessionError: the file is damaged, or has an operator that the evaluator does not know.
    """
    artifact = request.artifact
    who = f"onnx's evaluator, {artifact.main_file}"
    if request.precision != "fp32":
        why = f"a graph is evaluated in the types that it is written in, not in {request.precision}"
        raise OptionError(who, why, "leave 'precision' out")
    no_options(f"backend {GraphSession.backend!r}", request.options)
    try:
        return GraphSession(request, evaluator(artifact.main_file)[1], who)
    except Exception as error:  # damaged files and unknown operators raise errors of many types
        why = f"it cannot be evaluated: {type(error).__name__}: {error}"
        raise SessionError(who, why[:400], "install a backend that runs ONNX, such as optimum-ort") from error


class GraphSession:
    """An ONNX graph in the evaluator. It is thread-safe: calls share no state.

    Attributes:
        device: the requested one; it makes no difference.
    """

    backend = "onnx"

    def __init__(self, request: SessionRequest, evaluated: Any, who: str) -> None:
        self._who = who
        self._evaluated = evaluated
        self.device = request.device
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Evaluate the graph; return outputs by name.

        Raises:
            SessionError: an operator fails, or the session is closed.
        """
        evaluated = self._evaluated  # another thread may close the session meanwhile
        if evaluated is None:
            raise SessionError(self._who, "the session is closed", "load the artifact again")
        names = [spec.name for spec in self.outputs]
        given = {name: _read(value) for name, value in inputs.items()}
        try:
            values = evaluate(evaluated, names, given)
        except Exception as error:  # operators in Python raise errors of any type for a dtype that they lack
            why = f"it stops: {type(error).__name__}: {error}"
            raise SessionError(self._who, why[:400], "compare it on a backend that runs ONNX") from error
        return dict(zip(names, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Release the weights."""
        self._evaluated = None


def _read(value: Array) -> NDArray:
    return value if isinstance(value, np.ndarray) else np.from_dlpack(value)


def _modern(proto: Any) -> Any:
    """Return the model converted to an opset that the evaluator has in full."""
    import onnx

    opset = max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=_EVALUATED)
    return proto if opset >= _EVALUATED else onnx.version_converter.convert_version(proto, _EVALUATED)


def _operators() -> list[Any]:
    """Return replacements for operators of onnx 1.23 that are wrong (GatherElements: more than 64 rows, data of one
    row) or slow (16-bit and 8-bit products, and loops over single numbers in Python)."""
    import torch
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_conv import Conv as Convolution

    class GatherElements(OpRun):  # type: ignore[misc]
        def _run(self, data: Any, indices: Any, axis: int | None = None) -> tuple[Any]:
            along = (axis or 0) % data.ndim
            cut = tuple(slice(None) if i == along else slice(n) for i, n in enumerate(indices.shape))
            return (np.take_along_axis(data[cut], indices, axis=along),)

    class MatMul(OpRun):  # type: ignore[misc]
        def _run(self, a: Any, b: Any) -> tuple[Any]:
            return (np.matmul(_wide(a), _wide(b)).astype(a.dtype, copy=False),)

    class Gemm(OpRun):  # type: ignore[misc]
        def _run(  # the specification's own names
            self,
            a: Any,
            b: Any,
            c: Any = None,
            alpha: float = 1.0,
            beta: float = 1.0,
            transA: int = 0,  # noqa: N803
            transB: int = 0,  # noqa: N803
        ) -> tuple[Any]:
            left, right = _wide(a.T if transA else a), _wide(b.T if transB else b)
            product = np.asarray(alpha * np.matmul(left, right), left.dtype)
            if c is not None:
                product = product + np.asarray(beta * _wide(c), left.dtype)
            return (product.astype(a.dtype, copy=False),)

    class Erf(OpRun):  # type: ignore[misc]
        def _run(self, x: Any) -> tuple[Any]:
            return (torch.erf(torch.as_tensor(_wide(x))).numpy().astype(x.dtype, copy=False),)

    class Conv(Convolution):  # type: ignore[misc]
        def _run(self, x: Any, w: Any, b: Any = None, **attributes: Any) -> tuple[Any]:
            wide: list[Any] = [None if value is None else _wide(value) for value in (x, w, b)]
            convolve = _CONVOLUTIONS.get(x.ndim)
            if convolve is None or attributes.get("auto_pad") not in (None, "NOTSET"):
                (found,) = super()._run(*wide, **attributes)
                return (found.astype(x.dtype, copy=False),)
            axes = x.ndim - 2
            pads = attributes.get("pads") or [0] * (2 * axes)
            wide[0] = np.pad(wide[0], [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
            found = getattr(torch.nn.functional, convolve)(
                *(None if value is None else torch.as_tensor(value) for value in wide),
                stride=attributes.get("strides") or 1,
                dilation=attributes.get("dilations") or 1,
                groups=attributes.get("group") or 1,
            )
            return (found.numpy().astype(x.dtype, copy=False),)

    class MatMulInteger(OpRun):  # type: ignore[misc]
        def _run(self, a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> tuple[Any]:
            return (_whole_product(_shifted(a, a_zero_point), _shifted(b, b_zero_point)),)

    class QLinearMatMul(OpRun):  # type: ignore[misc]
        def _run(
            self, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, *result: Any
        ) -> tuple[Any]:
            product = _whole_product(_shifted(a, a_zero), _shifted(b, b_zero))
            scale, zero = result
            limits = np.iinfo(zero.dtype)
            rounded = np.rint(product * (a_scale * b_scale / scale) + zero)
            return (np.clip(rounded, limits.min, limits.max).astype(zero.dtype),)

    return [GatherElements, MatMul, Gemm, Erf, Conv, MatMulInteger, QLinearMatMul]


def _shifted(values: Any, zero_point: Any) -> Any:
    """Return 8-bit values as whole numbers around 0, in fp32."""
    whole = values.astype(np.float32)
    return whole if zero_point is None or not np.any(zero_point) else whole - zero_point.astype(np.float32)


def _whole_product(a: Any, b: Any) -> Any:
    """Return the product of matrices of whole numbers up to 255 in int32: in parts whose sums fp32 holds to the digit,
    since numpy multiplies whole numbers in a plain loop (100 times as long for a BERT of 22 million parameters)."""
    total: Any = 0
    for start in range(0, max(a.shape[-1], 1), _EXACT_SUM):
        part = slice(start, start + _EXACT_SUM)
        total = total + np.matmul(a[..., part], b[..., part, :] if b.ndim > 1 else b[part]).astype(np.int32)
    return total


def _wide(values: Any) -> Any:
    """Return 16-bit floats as fp32, and others as they are."""
    return values.astype(np.float32) if values.dtype.name in ("float16", "bfloat16") else values
