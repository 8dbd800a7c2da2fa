"""The whole path of a call on a stand-in for CUDA and the runtime that lives in host memory. What a GPU alone can show
is in test_gpu.py."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optimum_core.backend import read_options
from optimum_core.errors import InputError, SessionError
from optimum_core.types import Artifact, SessionRequest
from optimum_trt.contexts import Context, Engine
from optimum_trt.dlpack import GPU, Buffer, DeviceArray
from optimum_trt.options import TrtOptions
from optimum_trt.session import TrtSession
from optimum_trt.storage import read_engine, read_note

Open = Callable[..., SessionRequest]


class HostCuda:
    """Memory, copies, streams and graphs as on a GPU, in host memory; counts what is held."""

    index = 0

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.recording: list[Any] | None = None
        self.launched = 0

    def use(self) -> None: ...

    def stream(self) -> int:
        self.streams.add(len(self.streams) + 10)
        return max(self.streams)

    def close_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        assert stream in self.streams

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(b"\xab" * size, size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.memory[address]

    free_pinned = free

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, np.ndarray[Any, Any]]:
        array = np.empty(shape, dtype)
        address = array.ctypes.data if array.size else self.allocate(1)
        self.memory[address] = array
        return address, array

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        ctypes.memmove(target, source, size)

    def begin_capture(self, stream: int) -> None:
        self.recording = []

    def end_capture(self, stream: int) -> Any:
        recorded, self.recording = self.recording, None
        return recorded

    def launch(self, graph: Any, stream: int) -> None:
        self.launched += 1
        for kernel in graph:
            kernel()

    def close_graph(self, graph: Any) -> None:
        graph.clear()


class HostContext:
    """An execution context of the engine above."""

    active_optimization_profile = 0

    def __init__(self, cuda: HostCuda, weight: np.ndarray[Any, Any]) -> None:
        self.cuda, self.weight = cuda, weight
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.enqueued = 0
        self.changes = 0
        self.records = True
        self.broken = False

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.changes += 1
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.changes += 1
        self.shape = shape
        return self.active_optimization_profile == (0 if shape[0] == 3 else 1)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape[0], 4

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.changes += 1
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        x, y, shape, changes = self.addresses["x"], self.addresses["y"], self.shape, self.changes
        if self.broken or (self.cuda.recording is not None and not self.records):
            return False

        def kernel() -> None:
            assert changes == self.changes, "what a graph does after its context was changed is undefined"

            def over(address: int, columns: int) -> np.ndarray[Any, Any]:
                size = shape[0] * columns
                return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address)).reshape(-1, columns)

            over(y, 4)[:] = np.maximum(over(x, 8) @ self.weight, 0)

        self.enqueued += 1
        if self.cuda.recording is not None:
            self.cuda.recording.append(kernel)
        else:
            kernel()
        return True


class Stand(SimpleNamespace):
    """A session on the stand-in, and what it is made of."""

    session: TrtSession
    cuda: HostCuda
    contexts: list[HostContext]
    want: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@pytest.fixture
def stand(engine: Artifact, linear: Artifact, opening: Open, with_gpu: Any) -> Callable[..., Stand]:
    import onnx

    weight = onnx.numpy_helper.to_array(onnx.load(linear.main_file).graph.initializer[0])

    def make(*, options: Mapping[str, Any] | None = None, **changes: Any) -> Stand:
        cuda, contexts = HostCuda(), []
        native = SimpleNamespace(num_io_tensors=2, get_tensor_name=lambda index: "xy"[index])

        def context(*_: Any) -> HostContext:
            contexts.append(HostContext(cuda, weight))
            return contexts[-1]

        toolkit = SimpleNamespace(
            engine=lambda *_: native,
            runtime_config=lambda *_, **__: None,
            context=context,
            keep_runtime_cache=lambda *_: None,
            log=SimpleNamespace(said=lambda: "nothing"),
        )
        request = opening(engine, hardware=with_gpu((8, 9)), **changes)
        note, read = read_note(engine.path, "test"), read_options("trt", TrtOptions, options or {})
        plan = read_engine(engine.main_file, note, "test")
        opened = TrtSession(request, read, note, plan, toolkit, cuda)  # type: ignore[arg-type]
        return Stand(session=opened, cuda=cuda, contexts=contexts, want=lambda x: np.maximum(x @ weight, 0))

    return make


def drawn(batch: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((batch, 8)).astype(np.float32)


def test_calls_of_changing_shapes_are_right(stand: Callable[..., Stand]) -> None:
    made = stand()
    for seed, batch in enumerate((3, 1, 3, 32, 1, 3, 1, 3, 32, 32)):
        x = drawn(batch, seed)
        got = made.session.run({"x": x})["y"]
        assert isinstance(got, np.ndarray) and np.allclose(got, made.want(x))


def test_buffers_are_bound_once_and_kernels_recorded_once(stand: Callable[..., Stand]) -> None:
    made = stand()
    made.session.run({"x": drawn(3)})
    held = set(made.cuda.memory)
    for _ in range(5):
        made.session.run({"x": drawn(3)})
    assert set(made.cuda.memory) == held
    (context,) = made.contexts
    # The first call, the second, and its recording; then graphs alone.
    assert (context.enqueued, made.cuda.launched) == (3, 4)
    without = stand(options={"cuda_graphs": False})
    for _ in range(6):
        without.session.run({"x": drawn(3)})
    assert (without.contexts[0].enqueued, without.cuda.launched) == (6, 0)


def test_a_graph_ends_with_its_shape_and_is_recorded_again_later(stand: Callable[..., Stand]) -> None:
    made = stand()
    for batch in (3, 3, 3, 1, 1, 1, 3, 3, 3):
        x = drawn(batch)
        assert np.allclose(np.asarray(made.session.run({"x": x})["y"]), made.want(x))
    # Each shape's third call in a row was a graph; what was lost once is recorded after four.
    assert made.cuda.launched == 2
    for _ in range(3):
        made.session.run({"x": drawn(3)})
    assert made.cuda.launched == 4


def test_what_cannot_be_recorded_runs_all_the_same(stand: Callable[..., Stand]) -> None:
    made = stand()
    made.contexts[0].records = False
    for _ in range(4):
        x = drawn(3)
        assert np.allclose(np.asarray(made.session.run({"x": x})["y"]), made.want(x))
    assert made.cuda.launched == 0 and made.cuda.recording is None


def test_a_declared_shape_has_its_profile_and_its_buffers_ahead(stand: Callable[..., Stand]) -> None:
    made = stand(shapes=({"batch": 3},))
    assert made.cuda.memory and made.contexts[0].active_optimization_profile == 0
    held = set(made.cuda.memory)
    made.session.run({"x": drawn(3)})
    assert set(made.cuda.memory) == held
    made.session.run({"x": drawn(2)})
    assert made.contexts[0].active_optimization_profile == 1


def test_a_context_whose_run_failed_is_given_up(stand: Callable[..., Stand]) -> None:
    made = stand()
    for batch in (3, 3, 3, 5):
        made.session.run({"x": drawn(batch)})
    made.contexts[0].broken = True  # from now on it fails, whatever it is asked
    with pytest.raises(SessionError, match="the run failed"):
        made.session.run({"x": drawn(5)})
    for batch in (5, 3, 3, 3, 5):
        x = drawn(batch, 1)
        assert np.allclose(np.asarray(made.session.run({"x": x})["y"]), made.want(x))
    assert len(made.contexts) == 2
    made.session.close()
    assert not made.cuda.memory and not made.cuda.streams


def test_only_so_many_shapes_are_kept(stand: Callable[..., Stand]) -> None:
    made = stand(options={"most_shapes": 2})
    for batch in (1, 2, 4, 5, 6, 1, 2):
        made.session.run({"x": drawn(batch)})
    assert len(made.cuda.memory) == 2 * 4  # two shapes, two tensors, each on the device and on the host


def test_outputs_are_the_callers_own(stand: Callable[..., Stand]) -> None:
    made = stand()
    first = np.asarray(made.session.run({"x": drawn(3, 1)})["y"])
    kept = first.copy()
    made.session.run({"x": drawn(3, 2)})
    assert np.array_equal(first, kept)


def test_device_memory_in_and_out(stand: Callable[..., Stand]) -> None:
    made, x = stand(), drawn(3)
    asked: list[int] = []

    class Given(DeviceArray):
        def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
            asked.append(stream)
            return super().__dlpack__(stream=stream)

    given = Given(Buffer(x.ctypes.data, lambda _: None), x.shape, "float32", (GPU, 0))
    got = made.session.run({"x": given})["y"]
    assert isinstance(got, DeviceArray) and got.__dlpack_device__() == (GPU, 0)
    assert asked == list(made.cuda.streams), "the producer was not told the stream"
    array = np.ctypeslib.as_array((ctypes.c_float * 12).from_address(got._buffer.address)).reshape(3, 4)
    assert np.allclose(array, made.want(x))
    held = len(made.cuda.memory)
    del got, array
    assert len(made.cuda.memory) == held - 1


def test_host_arrays_of_any_layout(stand: Callable[..., Stand]) -> None:
    import torch

    made, x = stand(), drawn(3)
    for value in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], torch.from_numpy(x)):
        assert np.allclose(np.asarray(made.session.run({"x": value})["y"]), made.want(x))


def test_calls_from_several_threads_share_the_contexts(stand: Callable[..., Stand]) -> None:
    made, wrong = stand(streams=2), []

    def work(seed: int) -> None:
        for round_ in range(20):
            x = drawn(1 + (seed + round_) % 4, seed)
            if not np.allclose(np.asarray(made.session.run({"x": x})["y"]), made.want(x)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(made.contexts) == 2


def test_closing_frees_everything(stand: Callable[..., Stand]) -> None:
    made = stand(streams=3)
    for batch in (1, 3, 3, 3):
        made.session.run({"x": drawn(batch)})
    made.session.close()
    made.session.close()
    assert not made.cuda.memory and not made.cuda.streams
    with pytest.raises(SessionError, match="closed"):
        made.session.run({"x": drawn(1)})


def test_closing_does_not_take_a_call_its_context(stand: Callable[..., Stand]) -> None:
    made = stand()
    with made.session._pool.taken() as context:
        told: list[SessionError] = []

        def call() -> None:
            try:
                made.session.run({"x": drawn(1)})
            except SessionError as error:
                told.append(error)

        waiting = threading.Thread(target=call)
        waiting.start()
        made.session.close()
        waiting.join(timeout=120)
        assert told and not waiting.is_alive(), "a waiting call hangs after close"
        assert np.allclose(np.asarray(context.run([drawn(3)])["y"]), made.want(drawn(3)))
    assert not made.cuda.memory and not made.cuda.streams


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing: x"),
        ({"x": drawn(1), "z": drawn(1)}, "unknown: z"),
        ({"x": drawn(33)}, r"\[33, 8\], and the engine was built for \[1, 8\] to \[32, 8\]"),
        ({"x": drawn(1)[:, :7]}, r"\[1, 7\]"),
        ({"x": drawn(1)[0]}, r"\[8\]"),
        ({"x": drawn(1).astype(np.float64)}, "is float64, not float32"),
        ({"x": [[1.0] * 8]}, "is a list that cannot be read"),
    ],
)
def test_wrong_inputs_are_refused(inputs: Any, message: str, stand: Callable[..., Stand]) -> None:
    made = stand()
    with pytest.raises(InputError, match=message):
        made.session.run(inputs)
    assert np.allclose(np.asarray(made.session.run({"x": drawn(2)})["y"]), made.want(drawn(2)))


def test_an_output_as_long_as_its_values_say_is_refused(stand: Callable[..., Stand]) -> None:
    made = stand()
    made.contexts[0].get_tensor_shape = lambda name: (-1, 4)  # type: ignore[method-assign]
    with pytest.raises(SessionError, match="output 'y' depends on values"):
        made.session.run({"x": drawn(3)})
    assert not made.cuda.memory


def test_a_context_without_memory_is_an_error(engine: Artifact) -> None:
    shared = Engine(
        who="test",
        cuda=HostCuda(),
        new_context=lambda: None,
        inputs=engine.inputs,
        outputs=engine.outputs,
        profiles=(),
        capture=False,
        most_shapes=1,
        said=lambda: "out of memory",
    )
    with pytest.raises(SessionError, match="no execution context: out of memory"):
        Context(shared)
