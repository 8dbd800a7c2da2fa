from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from optimum_core.hardware import detect
from optimum_core.models.samples import Arrays, Case
from optimum_core.models.signature import ModelSignature, describe
from optimum_core.models.source import MemorySource
from optimum_core.types import Artifact, ExportRequest, Hardware, QuantizeConfig, QuantizeRequest, SessionRequest
from optimum_core.verify import ReferenceCase
from optimum_core.verify.reference import reference_cases
from optimum_inc import plugin
from optimum_inc.session import InductorSession


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tiny:
    """A small model with random weights, large enough for masks to matter, and eager's word on it."""

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]

    def request(self, output: Path, **changes: Any) -> ExportRequest:
        request = ExportRequest(
            backend="inc",
            source=self.source,
            task=self.signature.task,
            format="torch-export",
            precision="fp32",
            samples=self.signature.draw(Case(name="traced")),
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            output=output,
        )
        return dataclasses.replace(request, **changes)

    def batches(self, count: int = 6) -> list[Arrays]:
        """To calibrate with."""
        lengths = [{"batch": 4, "sequence": 8 + 4 * seed} for seed in range(count)]
        return [
            self.signature.draw(Case(name="calibration", lengths=shape, seed=100 + seed))
            for seed, shape in enumerate(lengths)
        ]


def _bert_module() -> Any:
    import torch
    import transformers as tf

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    config = tf.BertConfig(vocab_size=99, **sizes, max_position_embeddings=64, num_labels=5)
    module = tf.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:  # with the usual weights a mask hardly matters
                parameter.mul_(6)
    return module.eval()


def _gpt2_module() -> Any:
    import torch
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GPT2Config(vocab_size=99, n_embd=64, n_layer=1, n_head=4, n_positions=64)
    module = tf.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return module.eval()


@cache
def tiny_model(kind: str) -> Tiny:
    source = MemorySource({"bert": _bert_module, "gpt2": _gpt2_module}[kind]())
    signature = describe(source.module(), name=kind)
    return Tiny(source=source, signature=signature, cases=reference_cases(source.module(), signature))


@pytest.fixture(scope="session")
def bert() -> Tiny:
    return tiny_model("bert")


@pytest.fixture(scope="session")
def bert_module() -> Callable[[], Any]:
    """A new one of the same weights at each call."""
    return _bert_module


@pytest.fixture(scope="session")
def gpt2() -> Tiny:
    return tiny_model("gpt2")


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    found = detect()
    return dataclasses.replace(found, gpus=(), npus=(), cpu=dataclasses.replace(found.cpu, usable_cores=2))


@pytest.fixture(scope="session")
def exported(bert: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small BERT as an exported program."""
    artifact = plugin.export(bert.request(tmp_path_factory.mktemp("bert")))
    assert artifact is not None
    return artifact


Make = Callable[..., QuantizeRequest]


@pytest.fixture(scope="session")
def quantize_request(tmp_path_factory: pytest.TempPathFactory, hardware: Hardware, bert: Tiny) -> Make:
    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        request = QuantizeRequest(
            backend="inc",
            artifact=artifact,
            config=config,
            hardware=hardware,
            output=tmp_path_factory.mktemp("quantized"),
            calibration=bert.batches() if config.calibrates else None,
        )
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def package(exported: Artifact, quantize_request: Make) -> Artifact:
    """The small BERT, static int8, compiled."""
    artifact = plugin.quantize(quantize_request(exported, QuantizeConfig()))
    assert artifact is not None
    return artifact


@pytest.fixture(scope="session")
def session_request(hardware: Hardware) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="inc", artifact=artifact, device="cpu", hardware=hardware)
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
