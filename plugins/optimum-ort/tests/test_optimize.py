from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optimum_core.backend import manager
from optimum_core.errors import ExportError, OptionError, ResourceError, SessionError
from optimum_core.types import Artifact, OptimizeRequest
from optimum_ort import optimize, plugin, storage
from optimum_ort.interface import declared
from optimum_ort.session import OrtSession

Load = Callable[..., OrtSession]
Make = Callable[..., OptimizeRequest]
Bert = tuple[Artifact, list[tuple[dict[str, Any], Any]]]
LEVELS = ("all", "basic", "extended", "fusions", "ort_fusions")


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_keeps_the_values(level: str, bert: Bert, optimize_request: Make, load: Load) -> None:
    artifact, cases = bert
    session = load(manager().optimize(optimize_request(artifact, level=level)))
    for inputs, eager in cases:
        mask = inputs["attention_mask"].astype(bool)
        got = np.asarray(session.run(inputs)["last_hidden_state"])
        assert got.shape == eager.shape
        assert np.abs(got - eager)[mask].max() <= 1e-4 * np.abs(eager[mask]).max()


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_keeps_names_and_axes(level: str, bert: Bert, optimize_request: Make) -> None:
    import onnxruntime

    artifact, _ = bert
    written = manager().optimize(optimize_request(artifact, level=level))
    session = onnxruntime.InferenceSession(written.main_file, providers=["CPUExecutionProvider"])
    assert declared(session.get_inputs()) == [(spec.name, spec.dtype, spec.shape) for spec in artifact.inputs]
    ((name, _, shape),) = declared(session.get_outputs())
    assert name == "last_hidden_state" and shape is not None
    assert [isinstance(length, int) for length in shape] == [False, False, True]


@pytest.mark.parametrize("level", ["extended", "fusions"])
def test_levels_fuse(level: str, bert: Bert, optimize_request: Make) -> None:
    written = manager().optimize(optimize_request(bert[0], level=level))
    domains = {node.domain for node in onnx.load(written.main_file).graph.node}
    assert "com.microsoft" in domains


def test_basic_stays_plain_onnx(bert: Bert, optimize_request: Make) -> None:
    written = manager().optimize(optimize_request(bert[0], level="basic"))
    assert {node.domain for node in onnx.load(written.main_file).graph.node} <= {"", "ai.onnx"}


@pytest.mark.parametrize("level", LEVELS)
def test_external_weights_stay_external(
    level: str, linear_external: Artifact, weight: Any, optimize_request: Make, load: Load
) -> None:
    request = optimize_request(linear_external, level=level)
    written = manager().optimize(request)
    assert written.files == ("model.onnx", "model.onnx.data")
    assert sorted(path.name for path in request.output.iterdir()) == sorted(written.files)
    assert (request.output / "model.onnx.data").stat().st_size >= weight.nbytes
    x = np.ones((3, 8), np.float32)
    np.testing.assert_allclose(np.asarray(load(written).run({"x": x})["y"]), np.maximum(x @ weight, 0), atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_models_near_the_protobuf_limit_become_external(
    level: str, linear: Artifact, optimize_request: Make, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 100)
    written = manager().optimize(optimize_request(linear, level=level))
    assert written.files == ("model.onnx", "model.onnx.data")
    assert np.asarray(load(written).run({"x": np.ones((2, 8), np.float32)})["y"]).shape == (2, 64)


def test_the_artifact_tells_what_was_done(linear: Artifact, optimize_request: Make) -> None:
    request = optimize_request(linear, options={"deterministic": True})
    written = manager().optimize(request)
    assert (written.path, written.files, written.inputs) == (request.output, ("model.onnx",), linear.inputs)
    (step,) = written.steps
    assert (step.hook, step.backend, step.tool) == ("optimize", "ort", "onnxruntime")
    assert step.options == {"level": "all", "device": "cpu", "precision": "fp32", "deterministic": True}


@pytest.mark.parametrize("level", ["all", "fusions", "ort_fusions"])
def test_half_precision_keeps_the_interface(level: str, bert: Bert, optimize_request: Make, load: Load) -> None:
    artifact, cases = bert
    written = manager().optimize(optimize_request(artifact, level=level, precision="fp16"))
    assert written.precision == "fp16"
    assert written.main_file.stat().st_size < artifact.main_file.stat().st_size
    inputs, eager = cases[1]
    mask = inputs["attention_mask"].astype(bool)
    got = np.asarray(load(written).run(inputs)["last_hidden_state"])
    assert got.dtype == np.float32
    assert np.abs(got - eager)[mask].max() <= 5e-2 * np.abs(eager[mask]).max()


def test_unknown_level_and_precision(linear: Artifact, optimize_request: Make) -> None:
    request = optimize_request(linear, level="O9")
    with pytest.raises(OptionError, match="unknown level 'O9'") as caught:
        optimize.optimize(request)
    assert all(level in caught.value.remedy for level in LEVELS)
    with pytest.raises(OptionError, match="cannot make 'int8' of 'fp32'"):
        optimize.optimize(dataclasses.replace(request, level="all", precision="int8"))


@pytest.mark.parametrize(("level", "error"), [("all", SessionError), ("ort_fusions", ExportError)])
def test_a_broken_model_leaves_nothing_behind(
    level: str, error: type[Exception], linear: Artifact, optimize_request: Make
) -> None:
    linear.main_file.write_bytes(b"no model")
    request = optimize_request(linear, level=level)
    with pytest.raises(error, match=r"model\.onnx"):
        optimize.optimize(request)
    assert list(request.output.iterdir()) == []


def test_a_failing_worker_says_why(linear: Artifact, tmp_path: Path) -> None:
    from optimum_ort.worker import run_worker

    with pytest.raises(RuntimeError, match="nowhere"):
        run_worker(tmp_path / "nowhere.onnx", tmp_path, fuse=True, half=False, external=False)


@pytest.mark.parametrize(
    ("number", "kind", "name"), [(9, ResourceError, "SIGKILL"), (11, ExportError, "SIGSEGV")], ids=["killed", "crashed"]
)
def test_a_worker_that_a_signal_ends_is_an_error_of_ours(
    number: int, kind: type[Exception], name: str, linear: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimum_ort.worker import run_worker

    shell = tmp_path / "python"
    shell.write_text(f"#!/bin/sh\nkill -{number} $$\n")
    shell.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(shell))
    with pytest.raises(kind, match=rf"the process that optimized it ended by signal {number} \({name}\)"):
        run_worker(linear.main_file, tmp_path, fuse=True, half=False, external=False)


def test_not_ours(linear: Artifact, optimize_request: Make) -> None:
    assert plugin.optimize(optimize_request(linear, backend="other")) is None


def test_logs_are_silent_and_restored(
    bert: Bert, optimize_request: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import transformers.exporters.onnxruntime_fusions  # noqa: F401  its logger has to exist

    logger = logging.getLogger("transformers")
    before = logger.level
    request = optimize_request(bert[0])
    for level in LEVELS:
        output = request.output / level
        output.mkdir()
        manager().optimize(dataclasses.replace(request, level=level, output=output))
    assert logger.level == before
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert [record for record in caplog.records if not record.name.startswith("optimum_")] == []


def test_fusing_leaves_no_modules_behind(linear: Artifact, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from optimum_ort.worker import run_worker;"
        f"run_worker(Path({str(linear.main_file)!r}), Path({str(tmp_path)!r}), fuse=True, half=False, external=False);"
        "assert not {'optimizer', 'float16', 'fusion_options'} & sys.modules.keys();"
        "assert not [entry for entry in sys.path if 'onnxruntime' in entry]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
