"""The hooks of backend `acme`: it loads ONNX models and runs them with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from optimum_core.errors import OptionError, SessionError
from optimum_core.hookspecs import hookimpl
from optimum_core.types import Array, Hardware, Limitation, Offer, Session, SessionRequest, Support

NAME = "acme"


@hookimpl
def probe(hardware: Hardware) -> Support:
    """Offers the CPU wherever onnxruntime is installed."""
    if find_spec("onnxruntime") is None:
        missing = Limitation(what="run", reason="onnxruntime is not installed", remedy="pip install onnxruntime")
        return Support(limitations=(missing,))
    offer = Offer(device="cpu", loads=("onnx",), opset=21)
    return Support(offers=(offer,), versions={"onnxruntime": version("onnxruntime")})


class AcmeSession:
    """A model that onnxruntime has opened."""

    backend, device = NAME, "cpu"

    def __init__(self, request: SessionRequest) -> None:
        import onnxruntime

        for name in request.options:
            raise OptionError(f"backend {NAME!r}", f"unknown option {name!r}", "acme has no options")
        self.inputs, self.outputs = request.artifact.inputs, request.artifact.outputs
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = request.threads or request.hardware.cpu.usable_cores
        settings.log_severity_level = 3
        self._path = request.artifact.main_file
        try:
            self._model: Any = onnxruntime.InferenceSession(self._path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no other base
            raise SessionError(f"backend {NAME!r}, {self._path}", str(error), "export the model again") from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Outputs by name, as numpy arrays of their own."""
        import numpy as np

        if self._model is None:
            raise SessionError(f"backend {NAME!r}, {self._path}", "the session is closed", "load the model again")
        names = [spec.name for spec in self.outputs]
        feed: dict[str, Any] = dict(inputs)
        for name, array in feed.items():
            feed[name] = np.ascontiguousarray(array if isinstance(array, np.ndarray) else np.from_dlpack(array))
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
    return session.run(inputs) if isinstance(session, AcmeSession) else None
