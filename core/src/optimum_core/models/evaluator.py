"""ONNX computed operator by operator, as its specification says: slow, and the judge of what no runtime here runs.

It is onnx's own evaluator, with the operators that take nearly all of its time computed by numpy and torch. Products in
16 bits are computed in fp32 and then rounded: numpy has no fast ones, and processors that do have them add up in more
bits than they keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimum_core.errors import OptionError, SessionError
from optimum_core.options import no_options

if TYPE_CHECKING:
    from optimum_core.types import Array, SessionRequest, TensorSpec

# The evaluator knows QuantizeLinear and its like in every type from this opset on.
_EVALUATED = 21
_CONVOLUTIONS = {3: "conv1d", 4: "conv2d", 5: "conv3d"}


def evaluator(path: Path) -> tuple[Any, Any]:
    """The `onnx.ModelProto` at `path`, and onnx's evaluator of it.

    Raises:
        Exception: of any kind, for a damaged file or an operator that the evaluator does not know.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load(path)
    return proto, ReferenceEvaluator(_modern(proto), new_ops=_operators())


def open_graph(request: SessionRequest) -> GraphSession:
    """Open an ONNX artifact to be evaluated.

    Raises:
        OptionError: another precision is asked for than what is written, or an option: it has none.
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
    except Exception as error:  # damaged files and unknown operators fail in many ways
        why = f"it cannot be evaluated: {type(error).__name__}: {error}"
        raise SessionError(who, why[:400], "install a backend that runs ONNX, such as optimum-ort") from error


class GraphSession:
    """An ONNX graph in the evaluator. Calls may come from several threads: nothing is kept between them.

    Attributes:
        device: as it was asked for: any is as good.
    """

    backend = "onnx"

    def __init__(self, request: SessionRequest, evaluated: Any, who: str) -> None:
        self._who = who
        self._evaluated = evaluated
        self.device = request.device
        self.inputs: tuple[TensorSpec, ...] = request.artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = request.artifact.outputs

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs by name.

        Raises:
            SessionError: an operator fails, or the session is closed.
        """
        evaluated = self._evaluated  # another thread may close the session meanwhile
        if evaluated is None:
            raise SessionError(self._who, "the session is closed", "load the artifact again")
        names = [spec.name for spec in self.outputs]
        given = {name: _read(value) for name, value in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # what overflows is found by who compares
                values = evaluated.run(names, given)
        except Exception as error:  # it is of Python, and stops in any way where an operator lacks a type
            why = f"it stops: {type(error).__name__}: {error}"
            raise SessionError(self._who, why[:400], "compare it on a backend that runs ONNX") from error
        return dict(zip(names, map(np.asarray, values), strict=True))

    def close(self) -> None:
        """Let go of the weights."""
        self._evaluated = None


def _read(value: Array) -> np.ndarray[Any, Any]:
    return value if isinstance(value, np.ndarray) else np.from_dlpack(value)


def _modern(proto: Any) -> Any:
    """The model at an opset whose every operator the evaluator has."""
    import onnx

    opset = max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=_EVALUATED)
    return proto if opset >= _EVALUATED else onnx.version_converter.convert_version(proto, _EVALUATED)


def _operators() -> list[Any]:
    """Operators as specified, where onnx 1.23's own are wrong (GatherElements: more than 64 rows, data of one row) or
    slow: products in 16 bits, and what it does number by number in Python."""
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

    return [GatherElements, MatMul, Gemm, Erf, Conv]


def _wide(values: Any) -> Any:
    """Floats of 16 bits as fp32; others as they are."""
    return values.astype(np.float32) if values.dtype.name in ("float16", "bfloat16") else values
