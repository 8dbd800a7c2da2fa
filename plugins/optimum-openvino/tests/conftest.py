from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.hardware import detect
from optimum_core.models.samples import Case
from optimum_core.models.signature import ModelSignature, describe
from optimum_core.models.source import MemorySource
from optimum_core.types import (
    Artifact,
    ExportRequest,
    Hardware,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
    TensorSpec,
)
from optimum_core.verify import ReferenceCase
from optimum_core.verify.reference import reference_cases
from optimum_openvino import plugin
from optimum_openvino.session import OvSession
from optimum_openvino.storage import save


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tiny:
    """A small model with random weights, large enough for masks to matter, and eager's word on it."""

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]

    def request(self, output: Path, **changes: Any) -> ExportRequest:
        request = ExportRequest(
            backend="openvino",
            source=self.source,
            task=self.signature.task,
            format="openvino-ir",
            precision="fp32",
            samples=self.signature.draw(Case(name="traced")),
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            output=output,
        )
        return dataclasses.replace(request, **changes)


@cache
def _tiny(kind: str) -> Tiny:
    import torch
    import transformers as tf

    torch.manual_seed(0)
    module: Any
    if kind == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        module = tf.BertModel(tf.BertConfig(vocab_size=99, **sizes, max_position_embeddings=64))
    elif kind == "vit":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        module = tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=32, patch_size=8))
    elif kind == "resnet":
        config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        module = tf.ResNetForImageClassification(config)
    elif kind == "distilbert":
        config = tf.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
        module = tf.DistilBertForSequenceClassification(config)
    elif kind == "t5":
        config = tf.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        module = tf.T5ForConditionalGeneration(config)
    else:
        config = tf.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        config._attn_implementation = "sdpa"
        module = tf.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2 and kind in (
                "bert",
                "distilbert",
                "gpt2",
            ):  # with the usual weights a mask hardly matters
                parameter.mul_(6)
    source = MemorySource(module.eval())
    signature = describe(source.module(), name=kind)
    return Tiny(source=source, signature=signature, cases=reference_cases(source.module(), signature))


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    return _tiny


@pytest.fixture
def hardware() -> Hardware:
    found = detect()
    return dataclasses.replace(found, gpus=(), npus=(), cpu=dataclasses.replace(found.cpu, usable_cores=2))


@pytest.fixture
def session_request(hardware: Hardware) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="openvino", artifact=artifact, device="cpu", hardware=hardware)
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
def exported(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, list[Any]]:
    """A small BERT as IR, and batches to calibrate with."""
    bert = tiny("bert")
    artifact = plugin.export(bert.request(tmp_path_factory.mktemp("bert"), route="module"))
    assert artifact is not None
    lengths = [{"batch": 4, "sequence": 8 + 4 * seed} for seed in range(6)]
    batches = [
        bert.signature.draw(Case(name="calibration", lengths=shape, seed=100 + seed))
        for seed, shape in enumerate(lengths)
    ]
    return artifact, batches


@pytest.fixture
def quantize_request(tmp_path: Path, hardware: Hardware) -> Callable[..., QuantizeRequest]:
    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        output = tmp_path / "quantized"
        output.mkdir(exist_ok=True)
        request = QuantizeRequest(
            backend="openvino", artifact=artifact, config=config, hardware=hardware, output=output
        )
        return dataclasses.replace(request, **changes)

    return make
