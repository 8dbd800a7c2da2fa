from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optimum_core.types import Artifact, OptimizeRequest, TensorSpec
from optimum_ort import plugin, storage
from optimum_ort.session import OrtSession

_ROWS, _WIDTH = 96, 32


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def tied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Any]:
    """A language model without layers, whose head is its embedding, by either exporter; and its eager form."""
    import torch

    torch.manual_seed(0)

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(_ROWS, _WIDTH)
            self.inner = torch.nn.Linear(_WIDTH, _WIDTH)
            self.head = torch.nn.Linear(_WIDTH, _ROWS, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.inner(self.table(ids)).relu())
            return logits

    model, folder, ids = Tied().eval(), tmp_path_factory.mktemp(request.param), torch.randint(0, _ROWS, (3, 9))
    names: dict[str, Any] = {"input_names": ["ids"], "output_names": ["logits"], "opset_version": 18}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if request.param == "dynamo":
            axes: Any = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
            torch.onnx.export(model, (ids,), folder / "model.onnx", dynamo=True, dynamic_shapes=axes, **names)
        else:
            axes = {name: {0: "batch", 1: "length"} for name in ("ids", "logits")}
            torch.onnx.export(model, (ids,), folder / "model.onnx", dynamo=False, dynamic_axes=axes, **names)
    artifact = Artifact(
        format="onnx",
        path=folder,
        files=tuple(sorted(path.name for path in folder.iterdir())),
        inputs=(TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("batch", "length", _ROWS)),),
    )

    def eager(inputs: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(inputs)).numpy()

    return artifact, eager


def _large_weights(path: Path) -> list[tuple[int, ...]]:
    graph = onnx.load(path).graph
    return sorted(tuple(item.dims) for item in graph.initializer if np.prod(item.dims) >= _WIDTH * _WIDTH)


@pytest.mark.parametrize("level", ["all", "basic"])
def test_a_head_reads_the_table_of_the_embedding(
    level: str,
    tied: tuple[Artifact, Any],
    optimize_request: Callable[..., OptimizeRequest],
    load: Callable[..., OrtSession],
) -> None:
    artifact, eager = tied
    written = plugin.optimize(optimize_request(artifact, level=level))
    assert written is not None
    assert _large_weights(written.main_file) == [(_WIDTH, _WIDTH), (_ROWS, _WIDTH)]
    session = load(written)
    for ids in (np.arange(10, dtype=np.int64).reshape(2, 5), np.array([[7]], np.int64)):
        np.testing.assert_allclose(np.asarray(session.run({"ids": ids})["logits"]), eager(ids), atol=1e-5)


def test_weights_in_a_second_file_are_tied_too(
    tied: tuple[Artifact, Any], optimize_request: Callable[..., OptimizeRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "EXTERNAL_ABOVE", 100)
    monkeypatch.setattr(storage, "_READ_BYTES", 1)
    written = plugin.optimize(optimize_request(tied[0]))
    assert written is not None and storage.DATA in written.files
    assert _large_weights(written.main_file) == [(_WIDTH, _WIDTH), (_ROWS, _WIDTH)]


def test_a_head_of_its_own_keeps_its_weight(
    tied: tuple[Artifact, Any],
    optimize_request: Callable[..., OptimizeRequest],
    load: Callable[..., OrtSession],
    tmp_path: Path,
) -> None:
    model = onnx.load(tied[0].main_file)
    (product,) = [node for node in model.graph.node if node.op_type == "MatMul" and node.output[0] == "logits"]
    other = np.random.default_rng(0).standard_normal((_WIDTH, _ROWS)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(other, "other"))
    product.input[1] = "other"
    onnx.save(model, tmp_path / "model.onnx")
    artifact = Artifact(
        format="onnx", path=tmp_path, files=("model.onnx",), inputs=tied[0].inputs, outputs=tied[0].outputs
    )
    written = plugin.optimize(optimize_request(artifact))
    assert written is not None
    assert _large_weights(written.main_file) == [(_WIDTH, _WIDTH), (_WIDTH, _ROWS), (_ROWS, _WIDTH)]
