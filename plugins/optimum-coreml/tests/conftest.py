from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from optimum_core.hardware import detect
from optimum_core.models.samples import Case
from optimum_core.models.signature import ModelSignature, describe
from optimum_core.models.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.types import Artifact, ExportRequest, Hardware, SessionRequest
from optimum_core.verify import ReferenceCase
from optimum_core.verify.reference import reference_cases
from optimum_coreml.session import CoreMlSession, open_session
from optimum_coreml.storage import read_program, save, weights_file
from optimum_coreml.tools import coremltools, quiet

if TYPE_CHECKING:
    from optimum_coreml_interpreter import Program

coremltools()  # imported silently, before a test imports a part of it


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tiny:
    """A small model with random weights, large enough for masks to matter, and eager's word on it."""

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]

    def request(self, output: Path, **changes: Any) -> ExportRequest:
        request = ExportRequest(
            backend="coreml",
            source=self.source,
            task=self.signature.task,
            format="coreml",
            precision="fp32",
            samples=self.signature.draw(Case(name="traced")),
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            output=output,
        )
        return dataclasses.replace(request, **changes)


def _made(kind: str) -> Any:
    import transformers as tf

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if kind == "bert":
        labels = {0: "bad", 1: "good", 2: "neither"}
        config = tf.BertConfig(vocab_size=99, **sizes, max_position_embeddings=64, id2label=labels)
        return tf.BertForSequenceClassification(config)
    if kind == "distilbert":
        distilled = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
        return tf.DistilBertModel(tf.DistilBertConfig(vocab_size=99, **distilled, max_position_embeddings=64))
    if kind == "vit":
        return tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=32, patch_size=8))
    written = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=99, **written))


@cache
def _tiny(kind: str) -> Tiny:
    import torch

    torch.manual_seed(0)
    module = _made(kind)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:  # with the usual weights a mask hardly matters
                parameter.mul_(6)
    source = MemorySource(module.eval())
    signature = describe(source.module(), name=kind)
    return Tiny(source=source, signature=signature, cases=reference_cases(source.module(), signature))


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Tiny]:
    return _tiny


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """A tiny model as a package, made once for each kind, route and precision."""

    @cache
    def make(kind: str, route: str = "trace", precision: str = "fp32") -> Artifact:
        output = tmp_path_factory.mktemp(f"{kind}-{route}-{precision}")
        return manager().export(_tiny(kind).request(output, route=route, precision=precision))

    return make


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    return detect()


@pytest.fixture
def session_request(hardware: Hardware) -> Callable[..., SessionRequest]:
    def make(artifact: Artifact, **changes: Any) -> SessionRequest:
        request = SessionRequest(backend="coreml", artifact=artifact, device="all", hardware=hardware)
        return dataclasses.replace(request, **changes)

    return make


@pytest.fixture
def load(session_request: Callable[..., SessionRequest]) -> Callable[..., CoreMlSession]:
    return lambda artifact, **changes: open_session(session_request(artifact, **changes))


def _built(
    build: Callable[..., Any], shapes: list[tuple[int, ...]], folder: Path, kind: str = "fp32", target: str = "iOS18"
) -> Program:
    """A program of MIL's operators, saved by coremltools and read by the interpreter."""
    with quiet() as ct:
        from coremltools.converters.mil import mil
        from coremltools.converters.mil.mil import types

        mb: Any = mil.Builder

        dtype = {"fp32": types.fp32, "fp16": types.fp16, "int32": types.int32}[kind]
        specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]

        def body(*arguments: Any) -> Any:
            return build(*arguments)

        names = ", ".join(f"x{index}" for index in range(len(shapes)))
        scope: dict[str, Any] = {"body": body}
        exec(f"def function({names}):\n    return body({names})", scope)
        made = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(scope["function"])
        written = ct.convert(
            made,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        save(written, folder, {})
    from optimum_coreml_interpreter import Program

    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


@pytest.fixture(scope="session")
def built() -> Callable[..., Program]:
    return _built
