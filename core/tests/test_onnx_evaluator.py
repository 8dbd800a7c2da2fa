"""ONNX by its specification: what judges graphs that no runtime here runs, in the types that they are written in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optimum_core.errors import OptionError, SessionError
from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Artifact, Session, SessionRequest, TensorSpec

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

Graph = Callable[..., Artifact]
_ELEMENTS = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16}
RNG = np.random.default_rng(0)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    def write(op_type: str, inputs: dict[str, Any], dtype: str, precision: str = "fp32", **attributes: Any) -> Artifact:
        """One operator, whose output is `dtype`."""
        helper = onnx.helper
        values = [
            helper.make_tensor_value_info(name, _ELEMENTS[value.dtype.name], value.shape)
            for name, value in inputs.items()
        ]
        result = helper.make_tensor_value_info("y", _ELEMENTS[dtype], None)
        node = helper.make_node(op_type, list(inputs), ["y"], **attributes)
        model = helper.make_model(
            helper.make_graph([node], "one", values, [result]), opset_imports=[helper.make_opsetid("", 22)]
        )
        model.ir_version = 10  # what every runtime reads
        onnx.save(model, tmp_path / "model.onnx")
        specs = tuple(
            TensorSpec(name=name, dtype=value.dtype.name, shape=value.shape) for name, value in inputs.items()
        )
        out = (TensorSpec(name="y", dtype=dtype, shape=("rows",)),)
        return Artifact(
            format="onnx", path=tmp_path, files=("model.onnx",), inputs=specs, outputs=out, precision=precision
        )

    return write


def opened(artifact: Artifact, **asked: Any) -> Session:
    request = SessionRequest(backend="onnx", artifact=artifact, device="any", hardware=detect(), **asked)
    return manager().load_session(request)


def evaluated(artifact: Artifact, inputs: dict[str, Any]) -> Any:
    session = opened(artifact)
    try:
        return manager().binder(session)(inputs)["y"]
    finally:
        session.close()


NARROW = pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])


def drawn(dtype: Any, *shape: int) -> Any:
    return RNG.standard_normal(shape).astype(dtype)


def near(found: Any, exact: Any, dtype: Any) -> None:
    """`found` is the exact value rounded once."""
    assert found.dtype == dtype
    bits = 10 if dtype == np.float16 else 7
    assert np.allclose(found.astype(np.float64), exact, rtol=2.0 ** -(bits + 1) * 1.01, atol=1e-3 * 2.0**-bits)


@NARROW
def test_products_are_rounded_once(graph: Graph, precision: str, dtype: Any) -> None:
    name = np.dtype(dtype).name
    inputs = {"a": drawn(dtype, 2, 7, 300), "b": drawn(dtype, 300, 5)}
    exact = np.matmul(*(value.astype(np.float64) for value in inputs.values()))
    near(evaluated(graph("MatMul", inputs, name, precision), inputs), exact, dtype)


@NARROW
@pytest.mark.parametrize("turned", [0, 1])
def test_products_with_a_bias(graph: Graph, precision: str, dtype: Any, turned: int) -> None:
    name = np.dtype(dtype).name
    inputs = {"a": drawn(dtype, 200, 6), "b": drawn(dtype, *((5, 200) if turned else (200, 5))), "c": drawn(dtype, 5)}
    a, b, c = (value.astype(np.float64) for value in inputs.values())
    artifact = graph("Gemm", inputs, name, precision, transA=1, transB=turned, alpha=0.5, beta=2.0)
    exact = 0.5 * (a.T @ (b.T if turned else b)) + 2.0 * c
    near(evaluated(artifact, inputs), exact, dtype)


@NARROW
def test_convolutions(graph: Graph, precision: str, dtype: Any) -> None:
    name = np.dtype(dtype).name
    inputs = {"x": drawn(dtype, 1, 4, 9, 8), "w": drawn(dtype, 6, 2, 3, 3), "b": drawn(dtype, 6)}
    exact = torch.nn.functional.conv2d(
        *(torch.as_tensor(value.astype(np.float64)) for value in inputs.values()), stride=2, padding=1, groups=2
    )
    artifact = graph("Conv", inputs, name, precision, strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    near(evaluated(artifact, inputs), exact.numpy(), dtype)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 11), {"pads": [2, 0], "dilations": [2]}),
        ((2, 3, 6, 7), {"pads": [0, 1, 2, 0], "strides": [1, 3]}),
        ((1, 3, 4, 5, 6), {}),
        ((2, 3, 6, 7), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 3, 6, 7), {"auto_pad": "NOTSET", "group": 3}),
    ],
)
def test_convolutions_as_onnxruntime_has_them(graph: Graph, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    kernel = (6, 3 // attributes.get("group", 1), *([3] * (len(shape) - 2)))
    inputs = {"x": drawn(np.float32, *shape), "w": drawn(np.float32, *kernel)}
    artifact = graph("Conv", inputs, "float32", **attributes)
    (want,) = onnxruntime.InferenceSession(artifact.main_file).run(None, inputs)
    assert np.abs(evaluated(artifact, inputs) - want).max() < 1e-4


@NARROW
def test_erf(graph: Graph, precision: str, dtype: Any) -> None:
    x = np.linspace(-4, 4, 99).astype(dtype)
    exact = np.array([math.erf(value) for value in x.astype(np.float64)])
    near(evaluated(graph("Erf", {"x": x}, np.dtype(dtype).name, precision), {"x": x}), exact, dtype)


def test_what_overflows_in_16_bits_is_not_finite(graph: Graph) -> None:
    inputs = {"a": np.full((1, 8), 200, np.float16), "b": np.full((8, 1), 200, np.float16)}
    assert np.isinf(evaluated(graph("MatMul", inputs, "float16", "fp16"), inputs))


@pytest.mark.parametrize("shape", [(1, 70, 4), (3, 65, 2)])
def test_elements_are_gathered_from_any_number_of_rows(graph: Graph, shape: tuple[int, ...]) -> None:
    data = drawn(np.float32, *shape)
    indices = RNG.integers(0, shape[1], size=(shape[0], 90, shape[2]))
    artifact = graph("GatherElements", {"data": data, "indices": indices}, "float32", axis=1)
    want = torch.gather(torch.as_tensor(data), 1, torch.as_tensor(indices)).numpy()
    assert (evaluated(artifact, {"data": data, "indices": indices}) == want).all()


def test_a_graph_is_evaluated_as_it_is_written(graph: Graph) -> None:
    inputs = {"a": drawn(np.float32, 2, 3), "b": drawn(np.float32, 3, 2)}
    with pytest.raises(OptionError, match="written in, not in fp16"):
        opened(graph("MatMul", inputs, "float32"), precision="fp16")
    with pytest.raises(OptionError, match="unknown option 'threads'"):
        opened(graph("MatMul", inputs, "float32"), options={"threads": 2})


def test_an_unknown_operator_is_an_error_that_names_it(graph: Graph) -> None:
    inputs = {"a": drawn(np.float32, 2, 3)}
    with pytest.raises(SessionError, match="BiasGelu"):
        opened(graph("BiasGelu", inputs, "float32", domain="com.microsoft"))


def test_a_damaged_file_and_a_closed_session_say_so(graph: Graph) -> None:
    inputs = {"a": drawn(np.float32, 2, 3), "b": drawn(np.float32, 3, 2)}
    artifact = graph("MatMul", inputs, "float32")
    session = opened(artifact)
    with pytest.raises(SessionError, match="it stops: ValueError"):
        manager().binder(session)({**inputs, "b": drawn(np.float32, 2, 2)})
    session.close()
    with pytest.raises(SessionError, match="closed"):
        manager().binder(session)(inputs)
    artifact.main_file.write_bytes(b"no model")
    with pytest.raises(SessionError, match=r"model\.onnx"):
        opened(artifact)


@pytest.mark.parametrize("kind", ["MatMulInteger", "QLinearMatMul"])
@pytest.mark.parametrize("depth", [5, 2000, 34_000])
def test_products_of_8_bits_are_those_of_onnx_itself_to_the_last_digit(kind: str, depth: int, tmp_path: Path) -> None:
    """At the greatest values, with zero points, and beyond the depth at which their sums leave 32 bits."""
    from onnx.reference import ReferenceEvaluator

    from optimum_core.models.sources.onnx_evaluator import evaluator

    helper, unsigned, signed = onnx.helper, onnx.TensorProto.UINT8, onnx.TensorProto.INT8
    values: dict[str, Any] = {"a": RNG.integers(250, 256, (2, 3, depth)).astype(np.uint8), "az": np.uint8(3)}
    values |= {"b": RNG.integers(-128, -120, (depth, 4)).astype(np.int8), "bz": np.int8(-2)}
    names, result = ["a", "b", "az", "bz"], onnx.TensorProto.INT32
    if kind == "QLinearMatMul":
        scales = {"as": np.float32(0.02), "bs": np.float32(0.01), "ys": np.float32(depth), "yz": np.uint8(200)}
        values, names = values | scales, ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
        result = unsigned
    types = {"a": unsigned, "az": unsigned, "yz": unsigned, "b": signed, "bz": signed}
    inputs = [helper.make_tensor_value_info(name, types.get(name, 1), np.shape(values[name])) for name in names]
    output = helper.make_tensor_value_info("y", result, None)
    made = helper.make_graph([helper.make_node(kind, names, ["y"])], "g", inputs, [output])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    (found,) = evaluator(tmp_path / "model.onnx")[1].run(None, values)
    (want,) = ReferenceEvaluator(model).run(None, values)
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found, want)
