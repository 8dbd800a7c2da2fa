"""The six hooks, which are the whole interface between core and backends. Read this page first.

A backend is a module (or object) that implements some of them with `optimum_core.hookimpl`, named by an entry point
of the group `optimum.backends`. Requests and results are the frozen dataclasses of `optimum_core.types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from optimum_core.types import (
        Array,
        Artifact,
        ExportRequest,
        Hardware,
        OptimizeRequest,
        QuantizeRequest,
        Session,
        SessionRequest,
        Support,
    )

PROJECT = "optimum"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """The hooks that a backend may implement. All but `probe` are called on one backend at a time."""

    @hookspec
    def probe(self, hardware: Hardware) -> Support:
        """Return what this backend can do on this machine. Must be fast: look for packages, import no runtime.

        Example::

            @hookimpl
            def probe(hardware):
                if nothing := limits("run ONNX models", ["onnxruntime"], "pip install onnxruntime"):
                    return Support(limitations=tuple(nothing))
                return Support(offers=(Offer(device="cpu", loads=("onnx",), opset=21),))
        """
        raise NotImplementedError

    @hookspec(firstresult=True)
    def export(self, request: ExportRequest) -> Artifact | None:
        """Export a model to a format offered in `Offer.exports`; write files under `request.output`.

        Example::

            @hookimpl
            def export(request):
                from acme.export import write_model

                write_model(request.source.module(), request.samples, request.output / "model.acme")
                return Artifact(
                    format="acme", path=request.output, files=("model.acme",),
                    inputs=request.inputs, outputs=request.outputs,
                )
        """

    @hookspec(firstresult=True)
    def optimize(self, request: OptimizeRequest) -> Artifact | None:
        """Make an artifact faster: graph optimization, fusion, lower precision, building an engine.

        Example::

            @hookimpl
            def optimize(request):
                from acme.optimize import fuse

                fuse(request.artifact.main_file, request.output / "model.onnx", level=request.level)
                return dataclasses.replace(request.artifact, path=request.output, files=("model.onnx",))
        """

    @hookspec(firstresult=True)
    def quantize(self, request: QuantizeRequest) -> Artifact | None:
        """Quantize an artifact by `request.config`, calibrating on `request.calibration` where the scheme needs it.

        Example::

            @hookimpl
            def quantize(request):
                from acme.quantize import to_int8

                to_int8(request.artifact.main_file, request.calibration, request.output / "model.onnx")
                return dataclasses.replace(
                    request.artifact, path=request.output, files=("model.onnx",), precision="int8"
                )
        """

    @hookspec(firstresult=True)
    def load_session(self, request: SessionRequest) -> Session | None:
        """Open an artifact for inference on `request.device`.

        Example::

            @hookimpl
            def load_session(request):
                from acme.session import AcmeSession

                return AcmeSession(request.artifact, threads=request.threads)
        """

    @hookspec(firstresult=True)
    def infer(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
        """Run a session once: take arrays by input name, return arrays by output name. Must be thread-safe.

        A backend returns None for a session that is not its own (`session.backend`).

        Example::

            @hookimpl
            def infer(session, inputs):
                return session.run(inputs)
        """
