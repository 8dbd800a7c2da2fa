from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from onnx import TensorProto, helper

from optimum_core.errors import InputError, OptionError, SessionError
from optimum_core.testing.linear import LinearSessionTests
from optimum_core.types import Artifact, Session, SessionRequest, TensorSpec
from optimum_ort import devices, plugin
from optimum_ort import session as session_module
from optimum_ort.session import OrtSession

Load = Callable[..., OrtSession]


@dataclass
class Runtime:
    """The runtime's session without the binding below it, as another version may have it; its feeds are kept."""

    made: Any
    feeds: list[dict[str, Any]] = field(default_factory=list)

    def run(self, names: Any, feed: dict[str, Any], options: Any) -> Any:
        self.feeds.append(feed)
        return self.made.run(names, feed, options)

    def __getattr__(self, name: str) -> Any:
        if name == "_sess":
            raise AttributeError(name)
        return getattr(self.made, name)


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[Runtime]:
    """The sessions that are opened in this test."""
    made: list[Runtime] = []
    opened = session_module.opened

    def recorded(request: SessionRequest) -> Runtime:
        made.append(Runtime(opened(request)))
        return made[-1]

    monkeypatch.setattr(session_module, "opened", recorded)
    return made


def test_runs_through_the_hooks(linear: Artifact, weight: Any, session_request: Callable[..., SessionRequest]) -> None:
    session = plugin.load_session(session_request(linear))
    assert isinstance(session, Session)
    assert (session.backend, session.device) == ("ort", "cpu")
    assert (session.inputs, session.outputs) == (linear.inputs, linear.outputs)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
        outputs = plugin.infer(session, {"x": x})
        assert outputs is not None
        np.testing.assert_allclose(np.asarray(outputs["y"]), np.maximum(x @ weight, 0), atol=1e-5)


def test_its_own_function_gives_what_the_hook_gives(
    linear: Artifact, identity: Callable[[int, str], Artifact], load: Load
) -> None:
    session, x = load(linear), np.ones((3, 8), np.float32)
    (found,) = session.direct({"x": x})
    np.testing.assert_array_equal(found, session.run({"x": x})["y"])
    session.close()
    with pytest.raises(IndexError):  # then core calls the hook, which says so
        session.direct({"x": x})
    assert not hasattr(load(identity(TensorProto.BFLOAT16, "bfloat16")), "direct")


def test_not_ours(linear: Artifact, session_request: Callable[..., SessionRequest], load: Load) -> None:
    assert plugin.load_session(session_request(linear, backend="other")) is None
    session = load(linear)
    session.backend = "other"
    assert plugin.infer(session, {}) is None


def test_reads_torch_tensors_without_a_copy(linear: Artifact, load: Load, runtimes: list[Runtime]) -> None:
    session = load(linear)
    tensor = torch.ones(2, 8)
    session.run({"x": tensor})
    (seen,) = (feed["x"] for feed in runtimes[0].feeds)
    tensor[0, 0] = 7.0
    assert seen[0, 0] == 7.0
    np.testing.assert_array_equal(session.run({"x": tensor})["y"], session.run({"x": tensor.numpy()})["y"])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.astype(">f4"),
        lambda x: torch.from_numpy(x.T.copy()).T,
    ],
    ids=["fortran", "strided", "big-endian", "torch-strided"],
)
def test_layouts_of_memory_do_not_matter(change: Callable[[Any], Any], linear: Artifact, load: Load) -> None:
    session = load(linear)
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    np.testing.assert_array_equal(session.run({"x": change(x)})["y"], session.run({"x": x})["y"])


@pytest.mark.parametrize("source", ["torch", "ml_dtypes"])
def test_bfloat16_goes_through_dlpack(source: str, identity: Callable[[int, str], Artifact], load: Load) -> None:
    session = load(identity(TensorProto.BFLOAT16, "bfloat16"))
    given = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    value: Any = given
    if source == "ml_dtypes":
        import ml_dtypes

        value = given.float().numpy().astype(ml_dtypes.bfloat16)
    output = session.run({"x": value})["y"]
    assert (output.shape, output.dtype) == ((2, 2), "bfloat16")
    assert torch.equal(torch.utils.dlpack.from_dlpack(output), given)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.BOOL, "bool"), (TensorProto.FLOAT16, "float16"), (TensorProto.INT64, "int64")],
)
def test_element_types(element: int, dtype: str, identity: Callable[[int, str], Artifact], load: Load) -> None:
    session = load(identity(element, dtype))
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    for value in (x, torch.from_numpy(x)):
        output = np.asarray(session.run({"x": value})["y"])
        assert output.dtype == x.dtype
        np.testing.assert_array_equal(output, x)


@pytest.mark.parametrize("source", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_io_binding_agrees(
    source: Callable[[Any], Any], linear: Artifact, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way taken on CUDA, as far as it can run without one: host memory in, host memory out."""
    session = load(linear)
    x = np.arange(24, dtype=np.float32).reshape(3, 8)
    expected = session.run({"x": x})["y"]
    binding = dataclasses.replace(devices.CPU, binds=True)
    monkeypatch.setattr(session_module, "parse_device", lambda device: (binding, 0))
    session = load(linear)
    np.testing.assert_array_equal(session.run({"x": source(x)})["y"], expected)
    with pytest.raises(InputError, match="input 'x'"):
        session.run({"x": [[1.0] * 8]})  # type: ignore[dict-item]


def test_outputs_stay_as_they_are_after_further_runs(linear: Artifact, load: Load) -> None:
    session = load(linear)
    first = np.asarray(session.run({"x": np.ones((2, 8), np.float32)})["y"])
    kept = first.copy()
    session.run({"x": np.full((2, 8), 9, np.float32)})
    session.close()
    np.testing.assert_array_equal(first, kept)


class TestLinear(LinearSessionTests):
    """Of a linear layer."""


def test_an_input_that_an_operator_may_do_without_is_missed_too(linear: Artifact, load: Load) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y"))
    least = helper.make_tensor_value_info("least", TensorProto.FLOAT, [])
    graph = helper.make_graph([helper.make_node("Clip", ["x", "least"], ["y"])], "clip", [x, least], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), linear.main_file)
    inputs = spec("x", shape=("batch", 8)), spec("least", shape=())
    session = load(dataclasses.replace(linear, inputs=inputs, outputs=(spec("y", shape=("batch", 8)),)))
    with pytest.raises(InputError, match="missing: least"):
        session.run({"x": np.ones((1, 8), np.float32)})


def test_it_runs_without_the_binding_below(linear: Artifact, weight: Any, load: Load, runtimes: list[Runtime]) -> None:
    session = load(linear)
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    assert hasattr(runtimes[0].made, "_sess"), "this version of onnxruntime has another name for it"
    np.testing.assert_allclose(np.asarray(session.run({"x": x})["y"]), np.maximum(x @ weight, 0), atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
def test_broken_files_are_named(content: bytes | None, linear: Artifact, load: Load) -> None:
    whole = linear.main_file.read_bytes()
    linear.main_file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(SessionError, match="refused it") as caught:
        load(linear)
    assert str(linear.main_file) in str(caught.value)


def test_missing_files(linear: Artifact, linear_external: Artifact, load: Load) -> None:
    (linear_external.path / "weights").unlink()
    with pytest.raises(SessionError, match="weights"):
        load(linear_external)
    linear.main_file.unlink()
    with pytest.raises(SessionError, match="does not exist"):
        load(linear)


def test_truncated_weights(linear_external: Artifact, load: Load) -> None:
    weights = linear_external.path / "weights"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SessionError, match="refused it"):
        load(linear_external)


def spec(name: str, dtype: str = "float32", shape: tuple[int | str, ...] = ("batch", 8)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_threads_get_equal_results(bert: Any, load: Load) -> None:
    artifact, cases = bert
    session = load(artifact, streams=8, threads=2)
    expected = [session.run(inputs) for inputs, _ in cases]

    def work(number: int) -> bool:
        got = session.run(cases[number % 3][0])
        return np.array_equal(got["last_hidden_state"], expected[number % 3]["last_hidden_state"])  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(96)))


@pytest.mark.parametrize(("threads", "streams", "pool"), [(None, None, 2), (4, None, 4), (4, 3, 2), (4, 8, 1)])
def test_thread_counts(
    threads: int | None, streams: int | None, pool: int, linear: Artifact, load: Load, runtimes: list[Runtime]
) -> None:
    load(linear, threads=threads, streams=streams)
    assert runtimes[0].get_session_options().intra_op_num_threads == pool


def test_options_reach_the_runtime(linear: Artifact, load: Load) -> None:
    options = {"intra_op_threads": 3, "allow_spinning": False, "enable_mem_pattern": False, "prepacking": False}
    made = load(linear, options=options)._session.get_session_options()
    assert (made.intra_op_num_threads, made.enable_mem_pattern) == (3, False)
    assert made.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert made.get_session_config_entry("session.disable_prepacking") == "1"


def test_devices_that_are_not_here(linear: Artifact, load: Load) -> None:
    with pytest.raises(SessionError, match="device 'dml' needs DmlExecutionProvider") as caught:
        load(linear, device="dml")
    assert "pip install onnxruntime-directml" in caught.value.remedy
    for device in ("abacus", "cuda:first"):
        with pytest.raises(OptionError, match="unknown device"):
            load(linear, device=device)


def test_a_provider_that_gives_way_to_the_cpu_is_an_error(
    linear: Artifact, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fallback(onnxruntime.InferenceSession):  # type: ignore[misc]
        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallback)
    with pytest.raises(SessionError, match="CPUExecutionProvider was asked for, and onnxruntime runs Azure"):
        load(linear)


def test_loading_often_leaks_nothing(linear: Artifact, load: Load) -> None:
    process = psutil.Process()
    x = np.ones((4, 8), np.float32)

    def cycle(times: int) -> int:
        for _ in range(times):
            session = load(linear)
            session.run({"x": x})
            session.close()
        gc.collect()
        return int(process.memory_info().rss)

    before = cycle(50)
    assert cycle(200) - before < 8 * 2**20
