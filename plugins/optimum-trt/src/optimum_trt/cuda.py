"""Adapter to CUDA's runtime, through NVIDIA's `cuda-bindings`, which includes it.

Nothing here has been run: it needs a GPU. Without one, tests only check that CUDA's own error messages are passed on.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np

from optimum_core.errors import SessionError, UnavailableError
from optimum_core.types.arrays import NDArray


def bindings(who: str) -> Any:
    """Return `cuda.bindings.runtime`.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        why = f"cuda-bindings cannot be imported: {error}"
        raise UnavailableError(who, why, "pip install cuda-bindings") from error


class Cuda:
    """One GPU: memory, copies, streams and graphs. CUDA's errors become `OptimumError`s, with its own words.

    Raises:
        UnavailableError: there is no driver, or no GPU of that index.
    """

    def __init__(self, index: int, who: str) -> None:
        self._who = who
        self._runtime = bindings(who)
        self.index = index
        try:
            count = self._do("cudaGetDeviceCount")
        except SessionError as error:
            remedy = "use a machine with an NVIDIA GPU and a driver for this version of CUDA"
            raise UnavailableError(who, error.why, remedy) from error
        if index >= count:
            raise UnavailableError(who, f"there is no GPU {index}; there are {count}", "use 'cuda:0'")
        self.use()

    def use(self) -> None:
        """Select this GPU for the calling thread; CUDA keeps the selection per thread."""
        self._do("cudaSetDevice", self.index)

    @property
    def capability(self) -> tuple[int, int]:
        attributes = self._runtime.cudaDeviceAttr
        major = self._do("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, self.index)
        minor = self._do("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, self.index)
        return int(major), int(minor)

    def stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        return int(self._do("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def close_stream(self, stream: int) -> None:
        self._do("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work on the stream is done."""
        self._do("cudaStreamSynchronize", stream)

    def allocate(self, size: int) -> int:
        """Return the address of that many bytes on the GPU."""
        return int(self._do("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._do("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, NDArray]:
        """Return host memory that the GPU can read and write: its address, and an array over it."""
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)
        address = int(self._do("cudaMallocHost", size))
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return address, raw[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)

    def free_pinned(self, address: int) -> None:
        self._do("cudaFreeHost", address)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy between any two addresses; CUDA tells host from device by the address."""
        if size:
            kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
            self._do("cudaMemcpyAsync", target, source, size, kind, stream)

    def begin_capture(self, stream: int) -> None:
        """Start to record the work put on the stream instead of running it."""
        modes = self._runtime.cudaStreamCaptureMode
        self._do("cudaStreamBeginCapture", stream, modes.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, stream: int) -> Any:
        """Return the recorded work, ready to be launched."""
        graph = self._do("cudaStreamEndCapture", stream)
        try:
            return self._do("cudaGraphInstantiate", graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        self._do("cudaGraphLaunch", graph, stream)

    def close_graph(self, graph: Any) -> None:
        self._do("cudaGraphExecDestroy", graph)

    def _do(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, name)(*arguments)
        if int(status):
            _, text = self._runtime.cudaGetErrorString(status)
            said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            remedy = "see that the driver works (nvidia-smi) and that the GPU has free memory"
            raise SessionError(self._who, f"CUDA: {name}: {said} (error {int(status)})", remedy)
        return results[0] if results else None
