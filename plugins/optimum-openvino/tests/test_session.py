from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import OptionError, SessionError
from optimum_core.testing.linear import LinearSessionTests
from optimum_core.types import Artifact, Session, SessionRequest, StateSpec, TensorSpec
from optimum_openvino import plugin, runtime
from optimum_openvino.devices import parse_device
from optimum_openvino.options import OpenVinoOptions
from optimum_openvino.session import OvSession, host_array
from optimum_openvino.storage import save

Load = Callable[..., OvSession]


def test_runs_through_the_hooks(linear: Artifact, weight: Any, session_request: Callable[..., SessionRequest]) -> None:
    session = plugin.load_session(session_request(linear))
    assert isinstance(session, Session)
    assert (session.backend, session.device) == ("openvino", "cpu")
    assert (session.inputs, session.outputs) == (linear.inputs, linear.outputs)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
        outputs = plugin.infer(session, {"x": x})
        assert outputs is not None
        assert list(outputs) == ["y", "z"]
        for output in outputs.values():
            np.testing.assert_allclose(np.asarray(output), np.maximum(x @ weight, 0), atol=1e-4)


def test_not_ours(linear: Artifact, session_request: Callable[..., SessionRequest], load: Load) -> None:
    assert plugin.load_session(session_request(linear, backend="other")) is None
    session = load(linear)
    session.backend = "other"
    assert plugin.infer(session, {}) is None


def test_inputs_are_not_copied() -> None:
    array, tensor = np.ones((2, 8), np.float32), torch.ones(2, 8)
    assert np.shares_memory(host_array("session", "x", array), array)
    assert host_array("session", "x", tensor).ctypes.data == tensor.data_ptr()


def _read_only(x: Any) -> Any:
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.astype(">f4"),
        lambda x: torch.from_numpy(x.T.copy()).T,
        _read_only,
    ],
    ids=["fortran", "strided", "big-endian", "torch-strided", "read-only"],
)
def test_layouts_of_memory_do_not_matter(change: Callable[[Any], Any], linear: Artifact, load: Load) -> None:
    session = load(linear)
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    expected = session.run({"x": x})["y"]
    np.testing.assert_array_equal(np.asarray(session.run({"x": change(x)})["y"]), np.asarray(expected))


def test_outputs_stay_as_they_are_after_further_runs(linear: Artifact, load: Load) -> None:
    session = load(linear)
    outputs = session.run({"x": np.ones((2, 8), np.float32)})
    first, second = np.asarray(outputs["y"]), np.asarray(outputs["z"])
    assert not np.shares_memory(first, second)
    kept = first.copy()
    session.run({"x": np.full((2, 8), 9, np.float32)})
    session.close()
    np.testing.assert_array_equal(first, kept)


def test_onnx_is_loaded(tmp_path: Path, load: Load, weight: Any) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "model.onnx")
    artifact = Artifact(
        format="onnx",
        path=tmp_path,
        files=("model.onnx",),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 8)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 64)),),
    )
    given = np.ones((3, 8), np.float32)
    np.testing.assert_allclose(np.asarray(load(artifact).run({"x": given})["y"]), given @ weight, atol=1e-4)


class TestLinear(LinearSessionTests):
    """Of a linear layer."""


def test_text_is_refused_in_the_run(linear: Artifact, load: Load) -> None:
    with pytest.raises(SessionError, match=r"the run failed: .") as caught:
        load(linear).run({"x": np.array(["a"])})
    assert "x: float32['batch', 8]" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
@pytest.mark.parametrize("file", [0, 1], ids=["graph", "weights"])
def test_broken_files_are_named(file: int, content: bytes | None, linear: Artifact, load: Load) -> None:
    path = linear.path / linear.files[file]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(SessionError) as caught:
        load(linear)
    assert str(linear.main_file) in str(caught.value)


def test_weights_of_another_model(linear: Artifact, load: Load) -> None:
    """OpenVINO itself would read them without a word."""
    path = linear.path / linear.files[1]
    path.write_bytes(np.random.default_rng(1).bytes(len(path.read_bytes())))
    with pytest.raises(SessionError, match="is not the file written with it"):
        load(linear)


@pytest.mark.parametrize("file", [0, 1], ids=["graph", "weights"])
def test_missing_files(file: int, linear: Artifact, load: Load) -> None:
    (linear.path / linear.files[file]).unlink()
    with pytest.raises(SessionError):
        load(linear)


def spec(name: str, dtype: str = "float32", shape: tuple[int | str, ...] = ("batch", 8)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize("streams", [None, 2, 8])
def test_threads_get_equal_results(streams: int | None, linear: Artifact, load: Load) -> None:
    session = load(linear, streams=streams)
    given = [np.random.default_rng(i).standard_normal((i + 1, 8)).astype(np.float32) for i in range(8)]
    expected = [np.array(session.run({"x": x})["y"]) for x in given]

    def work(number: int) -> bool:
        place = number % len(given)
        return np.array_equal(np.asarray(session.run({"x": given[place]})["y"]), expected[place])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


def test_a_session_prepared_for_shapes_takes_all_shapes(linear: Artifact, load: Load, weight: Any) -> None:
    session = load(linear, shapes=({"batch": 3}, {"batch": 1}))
    assert len(session.prepared) == 2
    rng = np.random.default_rng(3)
    kept = []
    for batch in (3, 1, 2, 3, 5, 1):
        x = rng.standard_normal((batch, 8)).astype(np.float32)
        kept.append((np.maximum(x @ weight, 0), session.run({"x": x})))
    for want, got in kept:  # after all calls: no array is written twice
        np.testing.assert_allclose(np.asarray(got["y"]), want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.asarray(got["z"]), want, rtol=1e-4, atol=1e-4)


def test_a_file_is_read_once_for_all_shapes(
    linear: Artifact, load: Load, weight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading an ONNX file brings its weights into memory, and each compiled model holds what it was made of."""
    reads: list[Path] = []
    read = runtime._read

    def noted(request: SessionRequest, path: Path, who: str) -> Any:
        reads.append(path)
        return read(request, path, who)

    monkeypatch.setattr(runtime, "_read", noted)
    session = load(linear, shapes=({"batch": 3}, {"batch": 1}))
    assert reads == [linear.main_file]
    x = np.ones((7, 8), np.float32)  # none of the shapes: the graph that varies was not fixed with them
    np.testing.assert_allclose(np.asarray(session.run({"x": x})["y"]), np.maximum(x @ weight, 0), atol=1e-4)


def test_operators_for_past_lengths_are_bounded_but_for_decoders(
    linear: Artifact, session_request: Callable[..., SessionRequest]
) -> None:
    name, place = "CPU_RUNTIME_CACHE_CAPACITY", parse_device("cpu")

    def chosen(artifact: Artifact, **stated: Any) -> Any:
        options = OpenVinoOptions(properties=stated)
        return runtime.properties(session_request(artifact), options, place).get(name)

    assert chosen(linear) == 1024
    assert chosen(linear, **{name: 77}) == 77
    assert chosen(dataclasses.replace(linear, state=StateSpec(layers=()))) is None


def test_a_shape_that_leaves_an_axis_open_prepares_nothing(linear: Artifact, load: Load) -> None:
    assert not load(linear, shapes=({"sequence": 3},)).prepared


def test_prepared_threads_get_equal_results(linear: Artifact, load: Load, weight: Any) -> None:
    session = load(linear, streams=2, shapes=({"batch": 4},))
    inputs = [np.random.default_rng(i).standard_normal((4, 8)).astype(np.float32) for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: session.run({"x": x})["y"], inputs))
    for x, y in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(np.asarray(y), np.maximum(x @ weight, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.all_cores
def test_several_streams_work_side_by_side(linear: Artifact, load: Load) -> None:
    assert load(linear).streams == 1
    session = load(linear, streams=2)
    assert session.streams == 2
    assert session.compiled.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
    assert session.compiled.get_property("NUM_STREAMS") == 2


def test_options_reach_the_runtime(linear: Artifact, load: Load, tmp_path: Path) -> None:
    options = {
        "inference_num_threads": 1,  # which the calling thread is
        "cache_dir": tmp_path / "compiled",
        "properties": {"PERF_COUNT": True},
    }
    opened = load(linear, options=options)._open
    assert opened is not None
    assert int(opened[0].compiled.get_property("NUM_STREAMS")) == 0
    assert opened[0].compiled.get_property("PERF_COUNT") == "YES"
    assert list((tmp_path / "compiled").iterdir())
    for name, value in (("threads", 1), ("propertys", {})):
        with pytest.raises(OptionError, match=f"unknown option '{name}'"):
            load(linear, options={name: value})
    with pytest.raises(SessionError, match="NO_SUCH_PROPERTY"):
        load(linear, options={"properties": {"NO_SUCH_PROPERTY": 1}})


def test_fp32_is_not_left_to_the_runtime(linear: Artifact, load: Load) -> None:
    opened = load(linear)._open
    assert opened is not None
    assert opened[0].compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


def test_devices_and_precisions_that_are_not_here(linear: Artifact, load: Load) -> None:
    with pytest.raises(SessionError, match=r"openvino sees no device GPU\.7") as caught:
        load(linear, device="gpu:7")
    assert "GPU driver" in caught.value.remedy
    with pytest.raises(OptionError, match="unknown device"):
        load(linear, device="abacus")
    with pytest.raises(SessionError, match="does not compute in 'fp4'"):
        load(linear, precision="fp4")


@pytest.fixture
def gathering(tmp_path: Path) -> Artifact:
    """`y` is `x` and a table of four rows, cut to the length of `x`: longer ones fail in the inference."""
    import openvino
    from openvino import opset14 as ops

    x = ops.parameter([-1, -1], np.float32)
    table = ops.constant(np.arange(4, dtype=np.float32)[None])
    length = ops.gather(ops.shape_of(x), ops.constant(np.array([1])), ops.constant(np.array(0)))
    cut = ops.slice(table, np.array([0]), length, np.array([1]), np.array([1]))
    model = openvino.Model([ops.result(ops.add(ops.relu(x), cut))], [x])
    model.inputs[0].get_tensor().set_names({"x"})
    model.outputs[0].get_tensor().set_names({"y"})
    specs = [TensorSpec(name=name, dtype="float32", shape=("batch", "length")) for name in "xy"]
    files = save(model, tmp_path)
    return Artifact(format="openvino-ir", path=tmp_path, files=files, inputs=(specs[0],), outputs=(specs[1],))


# OpenVINO's own `infer` hides the failure where it has one stream of one thread.
_ONE_THREAD = {"properties": {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}}


@pytest.mark.parametrize("how", [{}, {"streams": 2}, {"threads": 1}, {"options": _ONE_THREAD}], ids=str)
@pytest.mark.parametrize("shapes", [(), ({"batch": 2, "length": 3},)], ids=["any", "prepared"])
def test_an_inference_that_failed_spoils_no_other(
    shapes: tuple[dict[str, int], ...], how: dict[str, Any], gathering: Artifact, load: Load
) -> None:
    session = load(gathering, shapes=shapes, **how)

    def good(length: int, batch: int = 2) -> None:
        got = session.run({"x": np.ones((batch, length), np.float32)})["y"]
        np.testing.assert_array_equal(np.asarray(got), np.ones((batch, 1)) + np.arange(length))

    def alternate(length: int) -> None:
        for _ in range(3):
            good(length)
            with pytest.raises(SessionError, match="the run failed"):
                session.run({"x": np.ones((2, 9), np.float32)})
            good(length)
            good(length, batch=1)

    alternate(3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(alternate, [1 + index % 4 for index in range(1, 4)] * 2))


def test_what_was_refused_before_the_inference_compiles_nothing_again(linear: Artifact, load: Load) -> None:
    session = load(linear)
    compiled = session.compiled
    assert compiled is not None
    with pytest.raises(SessionError):
        session.run({"x": np.ones((1, 9), np.float32)})
    assert session.compiled is compiled
    session.run({"x": np.ones((1, 8), np.float32)})
