from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.testing.machine import Machine
from optimum_core.testing.sharing import shared
from optimum_core.testing.tiny import Tiny
from optimum_core.testing.tiny import tiny as tiny_model
from optimum_core.types import (
    Artifact,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
    TensorSpec,
)
from optimum_openvino import plugin
from optimum_openvino.session import OvSession
from optimum_openvino.storage import save

_tiny = partial(tiny_model, backend="openvino", format="openvino-ir")


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    return _tiny


@pytest.fixture(scope="session")
def exported_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Artifact]:
    """A tiny model as IR, exported once for each kind and route."""

    def write(kind: str, route: str, folder: Path) -> Artifact:
        artifact = plugin.export(_tiny(kind).request(folder, route=route))
        assert artifact is not None
        return artifact

    @cache
    def make(kind: str, route: str) -> Artifact:
        return shared(tmp_path_factory, f"openvino-{kind}-{route}", partial(write, kind, route))

    return make


@pytest.fixture
def session_request(hardware: Machine) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="openvino", artifact=artifact, device="cpu", hardware=hardware())
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture
def load(session_request: Callable[..., SessionRequest]) -> Callable[..., OvSession]:
    return lambda artifact, **changes: OvSession.of(session_request(artifact, **changes))


@pytest.fixture
def weight() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)


@pytest.fixture
def linear(tmp_path: Path, weight: np.ndarray[Any, Any]) -> Artifact:
    """`y` is relu(x @ weight), any batch; `z` is the same tensor."""
    import openvino
    from openvino import opset14 as ops

    folder = tmp_path / "linear"
    folder.mkdir()
    x = ops.parameter([-1, 8], np.float32)
    y = ops.relu(ops.matmul(x, ops.constant(weight), False, False))
    model = openvino.Model([ops.result(y), ops.result(y)], [x])
    model.inputs[0].get_tensor().set_names({"x"})
    model.outputs[0].get_tensor().set_names({"y", "z"})
    shapes = {"x": ("batch", 8), "y": ("batch", 64), "z": ("batch", 64)}
    specs = [TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()]
    files = save(model, folder)
    return Artifact(format="openvino-ir", path=folder, files=files, inputs=(specs[0],), outputs=tuple(specs[1:]))


@pytest.fixture(scope="module")
def bert(tiny: Callable[[str], Tiny], exported_by: Callable[[str, str], Artifact]) -> tuple[Artifact, list[Any]]:
    """A small BERT as IR, and batches to calibrate with."""
    return exported_by("bert features", "module"), tiny("bert features").batches()


@pytest.fixture
def quantize_request(tmp_path: Path, hardware: Machine) -> Callable[..., QuantizeRequest]:
    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        output = tmp_path / "quantized"
        output.mkdir(exist_ok=True)
        request = QuantizeRequest(
            backend="openvino", artifact=artifact, config=config, hardware=hardware(), output=output
        )
        return dataclasses.replace(request, **changes)

    return make
