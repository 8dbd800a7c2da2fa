"""The layout of Optimum, as its packages read it. That it is opened here again: `tests/test_optimum_layout.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from optimum_core import accelerate
from optimum_core.errors import ArtifactError, UnavailableError
from optimum_core.generation.generator import generator_of
from optimum_core.models.backends.onnx_files.forms import FORM
from optimum_core.testing.decoders import decoder
from optimum_core.types import Artifact

_IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])


def _released(artifact: Artifact, directory: Path) -> Path:
    directory.mkdir()
    assert FORM.release is not None
    FORM.release(generator_of(artifact, directory.parent), directory)
    return directory


def test_a_decoder_has_the_inputs_that_they_feed(exported: Callable[..., Artifact], tmp_path: Path) -> None:
    theirs = _released(exported("llama", "onnx"), tmp_path / "theirs")
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


def test_a_shared_cache_has_no_form_there(shared_cache: Callable[[str], Artifact], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'shared_cache'.* writes keys and values into a buffer"):
        _released(shared_cache("llama"), tmp_path / "out")


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
