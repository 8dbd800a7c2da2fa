"""Weights of an ONNX file that lie in other files, wherever those are and whatever the working directory holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from optimum_core.types import Artifact, OptimizeRequest, TensorSpec
from optimum_ort import plugin, storage
from optimum_ort.graphs import GraphIndex
from optimum_ort.session import OrtSession
from optimum_ort.tying import tie_weights

_ROWS, _WIDTH = 96, 32


def _tied(kind: type[Any] = np.float32) -> tuple[Any, Any]:
    """Return a model whose head is the transpose of its table, written twice; and the table."""
    table = np.arange(_ROWS * _WIDTH).reshape(_ROWS, _WIDTH).astype(kind) % 7
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", number, ["batch", _ROWS])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.ascontiguousarray(table.T), "head")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), table


def _artifact(folder: Path, location: str) -> Artifact:
    """Write the model with its weights in a file at that place below the folder."""
    model, _ = _tied()
    for tensor in model.graph.initializer:
        set_external_data(tensor, location)
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / storage.MODEL)
    inputs, outputs = (
        TensorSpec(name="ids", dtype="int64", shape=("batch",)),
        TensorSpec(name="y", dtype="float32", shape=("batch", _ROWS)),
    )
    return Artifact(format="onnx", path=folder, files=(storage.MODEL, location), inputs=(inputs,), outputs=(outputs,))


def _answers(session: OrtSession) -> None:
    table, ids = _tied()[1], np.array([3, 90], np.int64)
    np.testing.assert_allclose(np.asarray(session.run({"ids": ids})["y"]), table[ids] @ table.T)


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/w.bin", "changed-0.data"])
@pytest.mark.parametrize("level", ["all", "fusions"])
def test_weights_are_found_in_any_file_and_left_as_they_are(
    level: str,
    location: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimize_request: Callable[..., OptimizeRequest],
    load: Callable[..., OrtSession],
) -> None:
    monkeypatch.setattr(storage, "_READ_BYTES", 1)
    artifact = _artifact(tmp_path, location)
    monkeypatch.chdir(tmp_path)  # its files have the names that are written
    made = plugin.optimize(optimize_request(artifact, level=level))
    assert made is not None and storage.DATA in made.files
    _answers(load(made))
    assert (tmp_path / location).stat().st_nlink == 1


def test_the_source_can_be_read_while_a_changed_graph_lies_beside_its_weights(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    for folder in (source, other):
        folder.mkdir()
    artifact = _artifact(source, storage.DATA)
    model = onnx.load(artifact.main_file, load_external_data=False)
    storage.write_again(model, other, source, external=True)
    for folder in (source, other):
        onnx.load(folder / storage.MODEL)


def test_weights_with_several_links_are_optimized(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimize_request: Callable[..., OptimizeRequest],
    load: Callable[..., OrtSession],
) -> None:
    monkeypatch.setattr(storage, "_READ_BYTES", 1)
    artifact = _artifact(tmp_path, storage.DATA)
    (tmp_path / "another").hardlink_to(tmp_path / storage.DATA)
    made = plugin.optimize(optimize_request(artifact))
    assert made is not None
    _answers(load(made))


def test_weights_are_written_beside_where_the_working_directory_has_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / storage.DATA).write_bytes(b"another model's")
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    model, table = _tied()
    storage.write_model(model, target, external=True)
    read = onnx.load(target / storage.MODEL)
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), table)


def test_weights_in_a_file_are_no_known_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _artifact(tmp_path, storage.DATA)
    monkeypatch.chdir(tmp_path)  # the bytes of any file of that name would be read
    graph = onnx.load(artifact.main_file, load_external_data=False).graph
    assert GraphIndex(graph).array("table") is None


@pytest.mark.parametrize(("kind", "products"), [(np.float32, 1), (np.int32, 0), (np.int64, 0)])
def test_only_tables_of_floats_are_tied(kind: type[Any], products: int) -> None:
    assert tie_weights(_tied(kind)[0]) == products
