from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimum_core.hardware import detect
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.plugins import manager
from optimum_core.testing.machine import machine
from optimum_core.testing.tiny import tiny as tiny_model
from optimum_core.types import Artifact, Gpu, Hardware, OptimizeRequest, SessionRequest, TensorSpec
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify import ReferenceCase

_HARDWARE = machine(system="linux", vendor="intel", architecture="x86_64", features=())


def _with_gpu(*capabilities: tuple[int, int]) -> Hardware:
    gpus = tuple(Gpu(vendor="nvidia", name="a GPU", compute_capability=item) for item in capabilities)
    return machine(system="linux", architecture="x86_64", gpus=gpus)


@pytest.fixture
def with_gpu() -> Callable[..., Hardware]:
    return _with_gpu


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A tiny model's ONNX, its signature and its eager outputs."""

    artifact: Artifact
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A tiny model of a kind, by core's own exporter."""

    @cache
    def make(kind: str) -> Exported:
        model = tiny_model(kind)
        artifact = manager().export(model.request(tmp_path_factory.mktemp(kind), route="torchscript"))
        return Exported(artifact=artifact, signature=model.signature, cases=model.cases)

    return make


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """A GPT-2 that takes a cache: its ONNX, and the eager model as a function of the same inputs."""

    artifact: Artifact
    eager: Callable[[ArrayMapping], ArrayMapping]
    draw: Callable[..., ArrayMapping]


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    import torch
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, positions: Any, *kv: Any) -> Any:
            cache = DynamicCache([(kv[2 * i], kv[2 * i + 1]) for i in range(2)])
            made = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            present = (tensor for layer in made.past_key_values.layers for tensor in (layer.keys, layer.values))
            return (made.logits, *present)

    kv = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    shapes: dict[str, tuple[int | str, ...]] = {
        "input_ids": ("batch", "sequence"),
        "attention_mask": ("batch", "past+sequence"),
        "position_ids": ("batch", "sequence"),
        **dict.fromkeys(kv, ("batch", 4, "past", 8)),
    }
    results: dict[str, tuple[int | str, ...]] = {
        "logits": ("batch", "sequence", 99),
        **{name.replace("past_key_values", "present"): ("batch", 4, "past+sequence", 8) for name in kv},
    }

    def draw(*, batch: int = 2, past: int = 5, query: int = 3, seed: int = 0) -> ArrayMapping:
        generator = np.random.default_rng(seed)
        mask = np.ones((batch, past + query), np.int64)
        mask[0, 0] = 0 if past else 1
        positions = np.broadcast_to(np.arange(past, past + query), (batch, query))
        floats = {name: generator.standard_normal((batch, 4, past, 8)).astype(np.float32) for name in kv}
        ids = generator.integers(3, 99, (batch, query))
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions.copy(), **floats}

    def eager(inputs: ArrayMapping) -> ArrayMapping:
        with torch.no_grad():
            made = Flat()(*(torch.from_numpy(inputs[name]) for name in shapes))
        return {name: value.numpy() for name, value in zip(results, made, strict=True)}

    folder = tmp_path_factory.mktemp("gpt2")
    axes = {
        name: {index: axis for index, axis in enumerate(shape) if isinstance(axis, str)}
        for name, shape in (shapes | results).items()
    }
    samples = tuple(torch.from_numpy(value) for value in draw().values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Flat().eval(),
            samples,
            folder / "model.onnx",
            dynamo=False,
            opset_version=18,
            input_names=list(shapes),
            output_names=list(results),
            dynamic_axes=axes,
        )
    artifact = Artifact(
        format="onnx",
        path=folder,
        files=("model.onnx",),
        inputs=tuple(
            TensorSpec(name=name, dtype="float32" if "past_key" in name else "int64", shape=shape)
            for name, shape in shapes.items()
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in results.items()),
    )
    return Decoder(artifact=artifact, eager=eager, draw=draw)


def run_onnx(model: Path | bytes, inputs: ArrayMapping) -> ArrayMapping:
    """Return the outputs of ONNX Runtime for a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


@pytest.fixture(scope="session")
def on_cpu() -> Callable[[Path | bytes, ArrayMapping], ArrayMapping]:
    return run_onnx


@pytest.fixture
def building(tmp_path: Path) -> Callable[..., OptimizeRequest]:
    """Ask for an engine for sm_89 in a new folder."""
    numbers = itertools.count()

    def make(artifact: Artifact, **changes: Any) -> OptimizeRequest:
        output = tmp_path / f"engine-{next(numbers)}"
        output.mkdir()
        request = OptimizeRequest(
            backend="trt", artifact=artifact, device="sm_89", precision="fp32", hardware=detect(), output=output
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture
def opening() -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="trt", artifact=artifact, device="cuda", hardware=_HARDWARE)
        return dataclasses.replace(request, **changes)

    return make


Graph = Callable[..., Artifact]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """Write a model of one input "x" and one output "y", of fp32 where nothing else is said."""
    numbers = itertools.count()

    def make(
        nodes: list[Any],
        weights: Mapping[str, Any],
        *,
        x: tuple[int | str, ...] = ("batch", 8),
        y: tuple[int | str, ...] = ("batch", 4),
        opset: int = 18,
        element: int = TensorProto.FLOAT,
    ) -> Artifact:
        folder = tmp_path / f"graph-{next(numbers)}"
        folder.mkdir()
        tensors = [
            value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
            for name, value in weights.items()
        ]
        ends = [helper.make_tensor_value_info(name, element, shape) for name, shape in (("x", x), ("y", y))]
        made = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(model, folder / "model.onnx")
        dtype = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}[element]
        return Artifact(
            format="onnx",
            path=folder,
            files=("model.onnx",),
            inputs=(TensorSpec(name="x", dtype=dtype, shape=x),),
            outputs=(TensorSpec(name="y", dtype=dtype, shape=y),),
        )

    return make


@pytest.fixture
def linear(graph: Graph) -> Artifact:
    """`y` is relu(x @ weight), any batch."""
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"], name="body/MatMul"),
        helper.make_node("Relu", ["z"], ["y"], name="body/Relu"),
    ]
    return graph(nodes, {"w": weight})


@pytest.fixture
def engine(linear: Artifact, building: Callable[..., OptimizeRequest]) -> Artifact:
    """relu(x @ weight) for sm_89, batch 1 to 32, and 3 by itself."""
    return manager().optimize(building(linear, shapes=({"batch": 3},)))
