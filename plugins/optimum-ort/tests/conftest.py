from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_core.backend import detect, manager
from optimum_core.testing.machine import machine
from optimum_core.testing.sharing import shared
from optimum_core.types import (
    Artifact,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
    TensorSpec,
)
from optimum_ort.session import OrtSession

_HARDWARE = machine(system="linux", vendor="intel", architecture="x86_64", features={"avx2"})


def _session_request(artifact: Artifact, **changes: Any) -> SessionRequest:
    request = SessionRequest(backend="ort", artifact=artifact, device="cpu", hardware=_HARDWARE, threads=1)
    return dataclasses.replace(request, **changes)


@pytest.fixture
def session_request() -> Callable[..., SessionRequest]:
    return _session_request


@pytest.fixture
def load() -> Callable[..., OrtSession]:
    return lambda artifact, **changes: OrtSession(_session_request(artifact, **changes))


@pytest.fixture
def optimize_request(tmp_path: Path) -> Callable[..., OptimizeRequest]:
    def make(artifact: Artifact, **changes: Any) -> OptimizeRequest:
        output = tmp_path / "optimized"
        output.mkdir()
        request = OptimizeRequest(
            backend="ort", artifact=artifact, device="cpu", precision="fp32", hardware=_HARDWARE, output=output
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def shared_cache(
    exported: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Artifact]:
    """A tiny decoder whose cache is a shared buffer, optimized once in a run for each kind."""

    def write(kind: str, folder: Path) -> Artifact:
        return manager().optimize(
            OptimizeRequest(
                backend="ort", artifact=exported(kind, "onnx"), device="cpu", precision="fp32", level="shared_cache",
                output=folder, hardware=detect(),
            )
        )  # fmt: skip

    return lambda kind: shared(tmp_path_factory, f"ort-{kind}-shared-cache", partial(write, kind))


def _save(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> None:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model.onnx")


@pytest.fixture
def identity(tmp_path: Path) -> Callable[[int, str], Artifact]:
    """Make a model whose `y` is its `x`, two columns, any batch, of an ONNX element type with numpy's name."""

    def make(element: int, dtype: str) -> Artifact:
        folder = tmp_path / f"identity-{dtype}"
        folder.mkdir()
        x, y = (helper.make_tensor_value_info(name, element, ["batch", 2]) for name in ("x", "y"))
        _save(folder, [helper.make_node("Identity", ["x"], ["y"])], [x], [y], [])
        specs = [TensorSpec(name=name, dtype=dtype, shape=("batch", 2)) for name in ("x", "y")]
        return Artifact(format="onnx", path=folder, files=("model.onnx",), inputs=(specs[0],), outputs=(specs[1],))

    return make


@pytest.fixture
def weight() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)


@pytest.fixture
def linear(tmp_path: Path, weight: np.ndarray[Any, Any]) -> Artifact:
    """`y` is relu(x @ weight), any batch."""
    folder = tmp_path / "linear"
    folder.mkdir()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])
    _save(folder, nodes, [x], [y], [numpy_helper.from_array(weight, "w")])
    return Artifact(
        format="onnx",
        path=folder,
        files=("model.onnx",),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 8)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 64)),),
    )


@pytest.fixture
def linear_external(linear: Artifact) -> Artifact:
    """The same with its weights in a second file."""
    model = onnx.load(linear.main_file)
    onnx.save_model(model, linear.main_file, save_as_external_data=True, location="weights", size_threshold=16)
    return dataclasses.replace(linear, files=("model.onnx", "weights"))


def _bert_inputs(batch: int, length: int, padding: str = "right") -> dict[str, Any]:
    generator = np.random.default_rng(batch * 100 + length)
    mask = np.ones((batch, length), np.int64)
    if padding == "left":
        mask[0, :2] = 0
    else:
        mask[0, -2:] = 0
    return {"input_ids": generator.integers(1, 90, (batch, length), np.int64), "attention_mask": mask}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, list[tuple[dict[str, Any], Any]]]:
    """A tiny BERT with random weights, large enough for masks to matter: its artifact, and inputs with what the eager
    model makes of them (other shapes than traced; padding on the right and on the left)."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=99, **sizes, max_position_embeddings=64), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    folder = tmp_path_factory.mktemp("bert")
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
    samples = tuple(torch.from_numpy(value) for value in _bert_inputs(2, 7).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Positional().eval(),
            samples,
            folder / "model.onnx",
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
        )
    artifact = Artifact(
        format="onnx",
        path=folder,
        files=("model.onnx",),
        inputs=tuple(TensorSpec(name=name, dtype="int64", shape=("batch", "sequence")) for name in names),
        outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", 32)),),
    )

    cases = [_bert_inputs(1, 5), _bert_inputs(3, 12), _bert_inputs(3, 9, "left")]
    with torch.no_grad():
        eager = [
            model(**{name: torch.from_numpy(value) for name, value in case.items()}).last_hidden_state.numpy()
            for case in cases
        ]
    return artifact, list(zip(cases, eager, strict=True))


@pytest.fixture
def quantize_request(tmp_path: Path) -> Callable[..., QuantizeRequest]:
    """Ask for a quantization into a new folder."""
    numbers = itertools.count()

    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        output = tmp_path / f"quantized-{next(numbers)}"
        output.mkdir()
        request = QuantizeRequest(backend="ort", artifact=artifact, config=config, hardware=_HARDWARE, output=output)
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session", params=["torchscript", "dynamo"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Any]:
    """An embedding, a convolution, a product of three axes (MatMul) and one of two (Gemm), by either exporter; and the
    eager model as a function of ids."""
    import torch

    torch.manual_seed(1)

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(64, 32)
            self.convolution = torch.nn.Conv1d(32, 48, 3, padding=1)
            self.wide = torch.nn.Linear(48, 64)
            self.head = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Linear(40, 40))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            seen = self.convolution(self.table(ids).transpose(1, 2)).relu().transpose(1, 2)
            pooled: torch.Tensor = self.head(self.wide(seen).relu().mean(1))
            return pooled

    model = Mixed().eval()
    folder = tmp_path_factory.mktemp(f"mixed-{request.param}")
    ids = torch.randint(0, 64, (3, 9))
    names: dict[str, Any] = {"input_names": ["ids"], "output_names": ["y"], "opset_version": 18}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if request.param == "dynamo":
            axes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
            torch.onnx.export(model, (ids,), folder / "model.onnx", dynamo=True, dynamic_shapes=axes, **names)
        else:
            vary = {"ids": {0: "batch", 1: "length"}, "y": {0: "batch"}}
            torch.onnx.export(model, (ids,), folder / "model.onnx", dynamo=False, dynamic_axes=vary, **names)
    data = folder / "model.onnx.data"
    artifact = Artifact(
        format="onnx",
        path=folder,
        files=("model.onnx", "model.onnx.data") if data.is_file() else ("model.onnx",),
        inputs=(TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 40)),),
    )

    def eager(inputs: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(inputs)).numpy()

    return artifact, eager
