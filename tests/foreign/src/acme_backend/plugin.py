"""The hooks of backend `acme`: it loads ONNX models and runs them with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.backend import closed, foreign_errors, limits, no_options, read_input, run_own, versions
from optimum_core.errors import SessionError
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Array, Hardware, Offer, Session, SessionRequest, Support

NAME = "acme"


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offers the CPU wherever onnxruntime is installed."""
    if nothing := limits("run", ["onnxruntime"], "pip install onnxruntime"):
        return Support(limitations=tuple(nothing))
    offer = Offer(device="cpu", loads=("onnx",), opset=21)
    return Support(offers=(offer,), versions=versions(["onnxruntime"]))


class AcmeSession:
    """A model that onnxruntime has opened."""

    backend, device = NAME, "cpu"

    def __init__(self, request: SessionRequest) -> None:
        import onnxruntime

        no_options(f"backend {NAME!r}", request.options)
        self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = request.threads or request.hardware.cpu.usable_cores
        settings.log_severity_level = 3
        path = request.artifact.main_file
        self._who = f"backend {NAME!r}, {path}"
        with foreign_errors(self._who, SessionError, "export the model again"):
            self._model: Any = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Outputs by name, as numpy arrays of their own."""
        import numpy as np

        if self._model is None:
            raise closed(self._who)
        names = [spec.name for spec in self.outputs]
        feed: dict[str, Any] = dict(inputs)
        for name, array in feed.items():
            foreign = not isinstance(array, np.ndarray)
            feed[name] = np.ascontiguousarray(read_input(self._who, name, array, np.from_dlpack) if foreign else array)
        with foreign_errors(self._who, SessionError, "check the inputs' types and shapes", doing="the run failed"):
            return dict(zip(names, self._model.run(names, feed), strict=True))

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


@hookimpl
def load_session(request: SessionRequest) -> Session | None:
    """Open an ONNX file."""
    return AcmeSession(request) if request.backend == NAME else None


@hookimpl
def infer(session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Run a session of this backend."""
    return run_own(NAME, session, inputs)
