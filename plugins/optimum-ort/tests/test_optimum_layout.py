"""The layout of Optimum: written, and opened here again; decoders with their cache too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from optimum_core import accelerate
from optimum_core.errors import ArtifactError, UnavailableError
from optimum_core.generation.generator import generator_of
from optimum_core.hardware import detect
from optimum_core.models.backends import onnx_release
from optimum_core.models.backends.onnx_forms import FORM
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder
from optimum_core.testing.encoder_decoders import encoder_decoder, exported_parts
from optimum_core.types import Artifact, OptimizeRequest

_GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")
_IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
_MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def _released(artifact: Artifact, directory: Path) -> Path:
    directory.mkdir()
    assert FORM.release is not None
    FORM.release(generator_of(artifact, directory.parent), directory)
    for part in (decoder("llama").config, decoder("llama").generation_config):
        part.save_pretrained(directory)
    return directory


@pytest.fixture
def theirs(exported: Callable[..., Artifact], tmp_path: Path) -> Path:
    """A decoder as Optimum writes one: keys and values in and out, and logits of all positions."""
    return _released(exported("llama", "onnx"), tmp_path / "theirs")


def test_a_decoder_has_the_inputs_that_they_feed(theirs: Path) -> None:
    session = onnxruntime.InferenceSession(theirs / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"] and names[3].startswith("past_key_values.0")
    past = {name: np.zeros((2, 2, 0, 8), np.float32) for name in names[3:]}
    places = np.arange(4)[None].repeat(2, 0)
    fed = {"input_ids": _IDS.numpy(), "attention_mask": np.ones((2, 4), np.int64), "position_ids": places}
    logits, first, *_ = session.run(None, {**fed, **past})
    assert logits.shape == (2, 4, 99) and first.shape == (2, 2, 4, 8)
    with torch.no_grad():
        assert np.allclose(logits, decoder("llama")(_IDS).logits, atol=1e-4)


def test_a_decoder_of_theirs_generates_as_eager(theirs: Path, tmp_path: Path) -> None:
    fast, model = accelerate(theirs, target="ort", cache_dir=tmp_path / "cache"), decoder("llama")
    assert fast.can_generate() and "unverified against an original" in repr(fast)
    for beams in (1, 3):
        asked: Any = {"attention_mask": _MASK, "max_new_tokens": 8, "do_sample": False, "num_beams": beams}
        assert torch.equal(fast.generate(_IDS, **asked), model.generate(_IDS, **asked))


@pytest.mark.parametrize("kind", ["mamba", "falcon_h1"])
def test_states_of_a_fixed_size_have_no_form_there(
    kind: str, exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    (place := tmp_path / "theirs").mkdir()
    assert FORM.release is not None
    with pytest.raises(ArtifactError, match=r"states of a fixed size(.|\n)*without layout="):
        FORM.release(generator_of(exported(kind, "onnx", route="torchscript"), tmp_path), place)
    assert not any(place.iterdir())


@pytest.mark.parametrize(("kind", "large"), [("t5", 1 << 30), ("whisper", 1000)])
def test_an_encoder_and_its_decoder_are_written_and_read(
    kind: str, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_release, "_EXTERNAL_ABOVE", large)
    whole = exported_parts(kind, "onnx", tmp_path / "parts", exporter="onnx", route="torchscript")
    (place := tmp_path / "theirs").mkdir()
    assert FORM.release is not None
    FORM.release(whole, place)
    assert [(place / f"{name}.onnx_data").is_file() for name in _GRAPHS] == [large == 1000] * 3
    graphs = {name: [graph.name for graph in _inputs(place / f"{name}.onnx")] for name in _GRAPHS}
    masks = ["encoder_attention_mask"] if kind == "t5" else []
    assert graphs["decoder_model"] == ["input_ids", *masks, "encoder_hidden_states"]
    past = [f"past_key_values.0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")]
    assert graphs["decoder_with_past_model"][: 5 + len(masks)] == ["input_ids", *masks, *past], "they go by the order"
    model = encoder_decoder(kind)
    model.config.architectures = [type(model).__name__]
    for part in (model.config, model.generation_config):
        part.save_pretrained(place)
    given: Any = {"input_ids": _IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    if kind == "whisper":
        given = {"input_features": torch.randn(2, 8, 100)}
    with accelerate(place, target="ort", cache_dir=tmp_path / "cache") as fast:
        for beams in (1, 3):
            asked: Any = {**given, "min_new_tokens": 6, "max_new_tokens": 6, "do_sample": False, "num_beams": beams}
            assert torch.equal(fast.generate(**asked), model.generate(**asked))


def _inputs(graph: Path) -> Any:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs()


def test_a_shared_cache_has_no_form_there(exported: Callable[..., Artifact], tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    request = OptimizeRequest(
        backend="ort", artifact=exported("llama", "onnx"), device="cpu", precision="fp32", level="shared_cache",
        output=tmp_path / "made", hardware=detect(),
    )  # fmt: skip
    with pytest.raises(ArtifactError, match=r"'shared_cache'.* writes keys and values into a buffer"):
        _released(manager().optimize(request), tmp_path / "out")


def test_a_classifier_is_written_in_their_layout(tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(
        vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2, max_position_embeddings=32
    )
    model = transformers.DistilBertForSequenceClassification(config).eval()
    fast = accelerate(model, target="ort", budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "out", layout="optimum")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == {"input_ids", "attention_mask"}
    fed = {"input_ids": _IDS.numpy(), "attention_mask": np.ones((2, 4), np.int64)}
    with torch.no_grad():
        assert np.allclose(session.run(["logits"], fed)[0], model(_IDS).logits, atol=1e-4)
    eager = accelerate(model, target="torch", budget=0, cache_dir=tmp_path / "cache")
    with pytest.raises(UnavailableError, match=r"layout 'optimum' is of onnx.*\n.*'ort'"):
        eager.save_pretrained(tmp_path / "eager", layout="optimum")
