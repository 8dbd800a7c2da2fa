from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from optimum_core.plugins import manager
from optimum_core.testing.machine import Machine
from optimum_core.testing.sharing import shared
from optimum_core.testing.tiny import Tiny
from optimum_core.testing.tiny import tiny as tiny_model
from optimum_core.types import Artifact, SessionRequest
from optimum_coreml.coremltools_adapter import coremltools, quiet
from optimum_coreml.session import CoreMlSession, open_session
from optimum_coreml.storage import read_program, save, weights_file

if TYPE_CHECKING:
    from optimum_coreml_interpreter import Program

coremltools()  # imported silently, before a test imports a part of it


_tiny = partial(tiny_model, backend="coreml", format="coreml")


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    return _tiny


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """A tiny model as a package, made once for each kind, route and precision."""

    @cache
    def make(kind: str, route: str = "trace", precision: str = "fp32") -> Artifact:
        def write(folder: Path) -> Artifact:
            return manager().export(_tiny(kind).request(folder, route=route, precision=precision))

        return shared(tmp_path_factory, f"coreml-{kind}-{route}-{precision}", write)

    return make


@pytest.fixture
def session_request(hardware: Machine) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="coreml", artifact=artifact, device="all", hardware=hardware())
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture
def load(session_request: Callable[..., SessionRequest]) -> Callable[..., CoreMlSession]:
    return lambda artifact, **changes: open_session(session_request(artifact, **changes))


def _built(
    build: Callable[..., Any], shapes: list[tuple[int, ...]], folder: Path, kind: str = "fp32", target: str = "iOS18"
) -> Program:
    """A program of MIL's operators, saved by coremltools and read by the interpreter."""
    with quiet() as ct:
        from coremltools.converters.mil import mil
        from coremltools.converters.mil.mil import types

        mb: Any = mil.Builder

        dtype = {"fp32": types.fp32, "fp16": types.fp16, "int32": types.int32}[kind]
        specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]

        def body(*arguments: Any) -> Any:
            return build(*arguments)

        names = ", ".join(f"x{index}" for index in range(len(shapes)))
        scope: dict[str, Any] = {"body": body}
        exec(f"def function({names}):\n    return body({names})", scope)
        made = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(scope["function"])
        written = ct.convert(
            made,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        save(written, folder, {})
    from optimum_coreml_interpreter import Program

    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


@pytest.fixture(scope="session")
def built() -> Callable[..., Program]:
    return _built
