"""Execution contexts, with a cache for every shape: buffers, bound once, and a CUDA graph of the kernels.

Tested with a stand-in for CUDA in host memory; not yet run on a GPU.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimum_core.errors import InputError, SessionError
from optimum_core.types import Array, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_trt.dlpack import GPU, Buffer, DeviceArray, View

_log = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], ...]
Given = NDArray | View


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Engine:
    """State that contexts of one engine share.

    Attributes:
        new_context: makes an execution context.
        profiles: per profile and input, the shortest, likeliest and longest shape.
        capture: record kernels of a shape as a CUDA graph, where the module does not do that by itself.
        said: returns the module's log after a failure.
    """

    who: str
    cuda: Any
    new_context: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, Any], ...]
    capture: bool
    most_shapes: int
    said: Any

    def profile_of(self, shapes: Shapes) -> int:
        """Return the index of the first profile that takes these shapes: the narrow ones come first.

        Raises:
            InputError: no profile takes them.
        """
        pairs = list(zip(self.inputs, shapes, strict=True))
        for index, profile in enumerate(self.profiles):
            if all(_within(shape, profile[spec.name]) for spec, shape in pairs):
                return index
        widest = self.profiles[-1]
        spec, shape = next(pair for pair in pairs if not _within(pair[1], widest[pair[0].name]))
        short, _, long = widest[spec.name]
        why = f"input {spec.name!r} is {list(shape)}, and the engine was built for {list(short)} to {list(long)}"
        raise InputError(self.who, why, "build it with such a shape in `shapes`, or with wider 'ranges'")


@dataclass(kw_only=True, slots=True, eq=False)
class _Place:
    """A tensor on the GPU, and host memory of the same shape that the GPU can access."""

    address: int
    size: int
    host_address: int
    host: NDArray


@dataclass(kw_only=True, slots=True, eq=False)
class _Binding:
    """Buffers, and perhaps a graph, for calls of one shape.

    Attributes:
        graph: its recorded kernels; valid only until the context switches to another shape.
        calls: the number of calls since the context switched to this shape.
        patience: the number of calls in a row after which kernels are recorded; doubled whenever a graph was lost.
    """

    profile: int
    shapes: Shapes
    inputs: list[_Place] = field(default_factory=list)
    outputs: list[_Place] = field(default_factory=list)
    graph: Any = None
    calls: int = 0
    patience: int = 2  # the first call may allocate and compile, which cannot be recorded


class Context:
    """One execution context with a stream of its own. For one call at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cuda = engine.cuda
        self._native = self._made()
        self._stream: int = self._cuda.stream()
        self._bindings: OrderedDict[Shapes, _Binding] = OrderedDict()
        self._set: _Binding | None = None

    def run(self, given: Sequence[Given]) -> dict[str, Array]:
        """Run one call. Outputs are on the device where some input is, otherwise on the host.

        Raises:
            InputError, SessionError: a shape that no profile takes; CUDA or TensorRT failed.
        """
        self._cuda.use()
        if self._native is None:
            self._native = self._made()
        binding = self.bind(tuple(value.shape for value in given))
        on_host = True
        for value, place in zip(given, binding.inputs, strict=True):
            if isinstance(value, View):
                on_host = False
                self._cuda.copy(place.address, value.address, place.size, self._stream)
            else:
                np.copyto(place.host, value)
                self._cuda.copy(place.address, place.host_address, place.size, self._stream)
        try:
            self._execute(binding)
            return self._to_host(binding) if on_host else self._to_device(binding)
        except SessionError:
            self._give_up()
            raise

    def _made(self) -> Any:
        native = self._engine.new_context()
        if native is None:
            remedy = "free GPU memory, use fewer 'contexts', or build with shorter 'ranges'"
            raise SessionError(self._engine.who, f"no execution context: {self._engine.said()}", remedy)
        return native

    def _give_up(self) -> None:
        """Make the next call create a new context: the state of this one after a failed run is unknown. Buffers stay;
        recorded graphs are dropped.
        """
        self._set = None
        for binding in self._bindings.values():
            self._drop_graph(binding)
        self._native = None

    @property
    def stream(self) -> int:
        return self._stream

    def bind(self, shapes: Shapes) -> _Binding:
        """Return buffers for these shapes, kept from an earlier call or made now."""
        binding = self._bindings.get(shapes)
        if binding is not None:
            self._bindings.move_to_end(shapes)
            return binding
        binding = _Binding(profile=self._engine.profile_of(shapes), shapes=shapes)
        self._select(binding)
        try:
            for spec, shape in zip(self._engine.inputs, shapes, strict=True):
                binding.inputs.append(self._place(spec, shape))
            for spec in self._engine.outputs:
                binding.outputs.append(self._place(spec, self._output_shape(spec)))
        except BaseException:
            self._release(binding)
            raise
        self._point(binding)
        self._set = binding
        self._bindings[shapes] = binding
        while len(self._bindings) > self._engine.most_shapes:
            self._release(self._bindings.popitem(last=False)[1])
        return binding

    def close(self) -> None:
        """Free the context, its stream and its buffers."""
        self._cuda.use()
        self._cuda.synchronize(self._stream)
        for binding in self._bindings.values():
            self._release(binding)
        self._bindings.clear()
        self._native = None
        self._cuda.close_stream(self._stream)

    def _select(self, binding: _Binding) -> None:
        """Make the context compute shapes for this binding. TensorRT leaves a graph's behaviour undefined after its
        context was changed: graphs of other shapes are dropped.
        """
        self._set = None
        for other in self._bindings.values():
            self._drop_graph(other)
        native, fine = self._native, True
        if native.active_optimization_profile != binding.profile:
            fine = native.set_optimization_profile_async(binding.profile, self._stream)
        for spec, shape in zip(self._engine.inputs, binding.shapes, strict=True):
            fine = fine and native.set_input_shape(spec.name, shape)
        if not fine:
            raise self._failed(f"it does not take the shapes {list(map(list, binding.shapes))}")

    def _point(self, binding: _Binding) -> None:
        """Set the context's tensor addresses."""
        for spec, place in zip(self._engine.inputs, binding.inputs, strict=True):
            self._native.set_tensor_address(spec.name, place.address)
        for spec, place in zip(self._engine.outputs, binding.outputs, strict=True):
            self._native.set_tensor_address(spec.name, place.address)

    def _output_shape(self, spec: TensorSpec) -> tuple[int, ...]:
        shape = tuple(self._native.get_tensor_shape(spec.name))
        if any(length < 0 for length in shape):
            why = f"the length of output {spec.name!r} depends on values, not on shapes alone"
            raise SessionError(self._engine.who, why, "leave this model to another backend")
        return shape

    def _place(self, spec: TensorSpec, shape: tuple[int, ...]) -> _Place:
        dtype = np.dtype(spec.dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        # An empty tensor needs an address too.
        address = self._cuda.allocate(max(size, 1))
        try:
            host_address, host = self._cuda.pinned(shape, dtype)
        except BaseException:
            self._cuda.free(address)
            raise
        return _Place(address=address, size=size, host_address=host_address, host=host)

    def _execute(self, binding: _Binding) -> None:
        if self._set is not binding:
            self._select(binding)
            self._point(binding)
            self._set = binding
        if binding.graph is not None:
            self._cuda.launch(binding.graph, self._stream)
            return
        self._enqueue()
        binding.calls += 1
        if self._engine.capture and binding.calls == binding.patience:
            self._capture(binding)

    def _enqueue(self) -> None:
        if not self._native.execute_async_v3(self._stream):
            raise self._failed("the run failed")

    def _capture(self, binding: _Binding) -> None:
        """Record the kernels of this shape; a model that cannot be recorded continues without."""
        self._cuda.synchronize(self._stream)
        self._cuda.begin_capture(self._stream)
        try:
            try:
                self._enqueue()
            finally:
                graph = self._cuda.end_capture(self._stream)
        except SessionError as error:
            _log.info("no CUDA graph for %s: %s", binding.shapes, error)
        else:
            binding.graph = graph

    def _drop_graph(self, binding: _Binding) -> None:
        if binding.graph is not None:
            self._cuda.close_graph(binding.graph)
            binding.graph = None
            binding.patience *= 2
        binding.calls = 0

    def _to_host(self, binding: _Binding) -> dict[str, Array]:
        for place in binding.outputs:
            self._cuda.copy(place.host_address, place.address, place.size, self._stream)
        self._cuda.synchronize(self._stream)
        pairs = zip(self._engine.outputs, binding.outputs, strict=True)
        return {spec.name: place.host.copy() for spec, place in pairs}

    def _to_device(self, binding: _Binding) -> dict[str, Array]:
        """Copy outputs into memory of the caller's own, because the next call overwrites the buffers."""
        results: dict[str, Array] = {}
        for spec, place in zip(self._engine.outputs, binding.outputs, strict=True):
            buffer = Buffer(self._cuda.allocate(max(place.size, 1)), self._cuda.free)
            self._cuda.copy(buffer.address, place.address, place.size, self._stream)
            results[spec.name] = DeviceArray(buffer, place.host.shape, spec.dtype, (GPU, self._cuda.index))
        self._cuda.synchronize(self._stream)
        return results

    def _release(self, binding: _Binding) -> None:
        if self._set is binding:
            self._set = None
        self._drop_graph(binding)
        for place in (*binding.inputs, *binding.outputs):
            self._cuda.free(place.address)
            self._cuda.free_pinned(place.host_address)

    def _failed(self, what: str) -> SessionError:
        return SessionError(
            self._engine.who, f"{what}: {self._engine.said()}", "check the inputs' shapes and GPU memory"
        )


class Pool:
    """A pool of contexts that calls take turns with; further callers wait."""

    def __init__(self, contexts: Sequence[Context], who: str) -> None:
        self._who = who
        self._idle = list(contexts)
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[Context]:
        """Yield a context for one call.

        Raises:
            SessionError: the pool is closed.
        """
        with self._changed:
            while not self._idle and not self._closed:
                self._changed.wait()
            if self._closed:
                raise SessionError(self._who, "the session is closed", "load the artifact again")
            context = self._idle.pop()
        try:
            yield context
        finally:
            with self._changed:
                closed = self._closed
                if not closed:
                    self._idle.append(context)
                    self._changed.notify()
            if closed:
                context.close()

    def close(self) -> None:
        """Free idle contexts; a running call frees its own when it returns."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for context in idle:
            context.close()


def _within(shape: tuple[int, ...], bounds: Sequence[Sequence[int]]) -> bool:
    short, _, long = bounds
    return len(shape) == len(short) and all(
        low <= length <= high for low, length, high in zip(short, shape, long, strict=True)
    )
