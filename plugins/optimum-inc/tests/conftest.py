from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from optimum_core.testing.kinds import tiny_module
from optimum_core.testing.machine import Machine
from optimum_core.testing.sharing import shared
from optimum_core.testing.tiny import Tiny
from optimum_core.testing.tiny import tiny as tiny_model
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, SessionRequest
from optimum_inc import plugin
from optimum_inc.session import InductorSession

_SIZES = {"hidden_size": 64, "intermediate_size": 128}
_tiny = partial(tiny_model, backend="inc", format="torch-export")


# Before every other fixture of a session, since these compile.
@pytest.fixture(scope="session", autouse=True)
def compiled_quickly() -> Iterator[None]:
    """Compile the calls of kernels without optimization, which is half of the time; the kernels stay as they are.

    What the processor says of its vector instructions is believed: Inductor would compile a program for each of them,
    to see whether the compiler knows them.
    """
    from torch._inductor import config

    settings = {
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "cpp.vec_isa_ok": True,
    }
    with config.patch(settings):
        yield


@pytest.fixture(scope="session")
def bert() -> Tiny:
    return _tiny("bert", **_SIZES)


@pytest.fixture(scope="session")
def bert_module() -> Callable[[], Any]:
    """A new one of the same weights at each call."""
    return partial(tiny_module, "bert", **_SIZES)


@pytest.fixture(scope="session")
def gpt2() -> Tiny:
    return _tiny("gpt2", n_embd=64)


@pytest.fixture(scope="session")
def exported(bert: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small BERT as an exported program."""

    def write(folder: Path) -> Artifact:
        artifact = plugin.export(bert.request(folder))
        assert artifact is not None
        return artifact

    return shared(tmp_path_factory, "inc-bert", write)


Make = Callable[..., QuantizeRequest]


@pytest.fixture(scope="session")
def quantize_request(tmp_path_factory: pytest.TempPathFactory, hardware: Machine, bert: Tiny) -> Make:
    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        request = QuantizeRequest(
            backend="inc",
            artifact=artifact,
            config=config,
            hardware=hardware(),
            output=tmp_path_factory.mktemp("quantized"),
            calibration=bert.batches() if config.calibrates else None,
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def package(exported: Artifact, quantize_request: Make, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small BERT, static int8, compiled."""

    def write(folder: Path) -> Artifact:
        artifact = plugin.quantize(quantize_request(exported, QuantizeConfig(), output=folder))
        assert artifact is not None
        return artifact

    return shared(tmp_path_factory, "inc-package", write)


@pytest.fixture(scope="session")
def session_request(hardware: Machine) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="inc", artifact=artifact, device="cpu", hardware=hardware())
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def load(session_request: Callable[..., SessionRequest]) -> Callable[..., InductorSession]:
    return lambda artifact, **changes: InductorSession(session_request(artifact, **changes))


@pytest.fixture
def session(package: Artifact, load: Callable[..., InductorSession]) -> Iterator[InductorSession]:
    opened = load(package)
    yield opened
    opened.close()
