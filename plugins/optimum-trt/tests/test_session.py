"""Refusals before anything is deserialized, and the errors of the runtime and of CUDA."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optimum_core.errors import ArtifactError, OptimumError, OptionError, SessionError, UnavailableError
from optimum_core.plugins import manager
from optimum_core.types import Artifact, OptimizeRequest, SessionRequest
from optimum_trt import session as sessions
from optimum_trt.modules import RTX, Toolkit, load
from optimum_trt.session import check_gpu
from optimum_trt.storage import MODEL, NOTE, read_note

Make = Callable[..., OptimizeRequest]
Open = Callable[..., SessionRequest]


def altered(artifact: Artifact, **changes: Any) -> Artifact:
    path = artifact.path / NOTE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return artifact


# What is refused, in the order in which it is looked at.


def test_without_a_gpu_it_says_why_and_what_to_do(engine: Artifact, opening: Open) -> None:
    for device in ("cuda", "sm_89"):
        with pytest.raises(UnavailableError, match="engine for sm_89 does not run here: no NVIDIA GPU") as caught:
            manager().load_session(opening(engine, device=device))
        assert "optimum_core.load" in caught.value.remedy


def test_other_gpus_are_refused(engine: Artifact, opening: Open, with_gpu: Any) -> None:
    with pytest.raises(UnavailableError, match="no GPU of the kind sm_89 is here"):
        manager().load_session(opening(engine, device="sm_89", hardware=with_gpu((8, 6))))
    with pytest.raises(SessionError, match="built for sm_89, and this GPU is sm_86") as caught:
        check_gpu(read_note(engine.path, "test"), (8, 6), "test")
    assert "build it again here" in caught.value.remedy


def test_the_driver_has_the_last_word(engine: Artifact, opening: Open, with_gpu: Any) -> None:
    """The hardware claims a GPU that CUDA does not find: its own words come out."""
    with pytest.raises(UnavailableError, match=r"cudaGetDeviceCount: .*(driver|no CUDA-capable device)"):
        manager().load_session(opening(engine, hardware=with_gpu((8, 9))))


def test_the_runtimes_refusal_has_its_words(engine: Artifact) -> None:
    toolkit = load(RTX, "test")
    with pytest.raises(SessionError, match=r"tensorrt_rtx 1\..* refused it: .*[Cc]uda"):
        toolkit.engine(engine.main_file.read_bytes(), "test")


@pytest.mark.parametrize(
    ("changes", "error", "message", "remedy"),
    [
        ({"version": "1.2.3"}, SessionError, r"built with tensorrt_rtx 1\.2\.3", "tensorrt-rtx==1.2.3"),
        ({"module": "tensorrt"}, UnavailableError, "tensorrt .* is not installed", "pip install tensorrt=="),
        ({"module": "pickle"}, ArtifactError, "'pickle' as what built it", "build the engine again"),
        ({"portable": False, "platform": "windows-amd64"}, SessionError, "built on windows-amd64", "build it again"),
        ({"sha256": "0" * 64}, ArtifactError, "not the one that was built", "build the engine again"),
        ({"size": 3}, ArtifactError, "and had 3 when it was built", "build the engine again"),
        ({"schema": 9}, ArtifactError, "another version of optimum-trt", "build the engine again"),
        ({"size": "3"}, ArtifactError, "wrong type", "build the engine again"),
        ({"extra": 1}, ArtifactError, "extra", "build the engine again"),
    ],
)
def test_what_an_engine_belongs_to_is_checked_before_it_is_read(
    changes: dict[str, Any],
    error: type[OptimumError],
    message: str,
    remedy: str,
    engine: Artifact,
    opening: Open,
    with_gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Toolkit, "engine", lambda *_: pytest.fail("it was deserialized"))
    with pytest.raises(error, match=message) as caught:
        manager().load_session(opening(altered(engine, **changes), hardware=with_gpu((8, 9))))
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", [MODEL, NOTE])
@pytest.mark.parametrize("damage", ["missing", "truncated", "random"])
def test_damaged_files_are_refused(damage: str, name: str, engine: Artifact, opening: Open, with_gpu: Any) -> None:
    path = engine.path / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else bytes(reversed(whole)))
    with pytest.raises(ArtifactError) as caught:
        manager().load_session(opening(engine, hardware=with_gpu((8, 9))))
    assert caught.value.remedy


def test_unknown_options_devices_and_formats(engine: Artifact, linear: Artifact, opening: Open) -> None:
    with pytest.raises(OptionError, match="cuda_graph"):
        manager().load_session(opening(engine, options={"cuda_graph": 1}))
    with pytest.raises(OptionError, match="unknown device 'tpu'"):
        manager().load_session(opening(engine, device="tpu"))
    with pytest.raises(SessionError, match="'onnx', not an engine"):
        manager().load_session(opening(linear))


def test_an_engine_of_other_names_is_refused(engine: Artifact) -> None:
    native = SimpleNamespace(num_io_tensors=1, get_tensor_name=lambda index: "z")
    with pytest.raises(SessionError, match="differ in x, y, z"):
        sessions.check_interface(native, engine, "test")


def test_not_ours(engine: Artifact, opening: Open, tmp_path: Path) -> None:
    from optimum_trt import plugin

    assert plugin.load_session(replace(opening(engine), backend="other")) is None
