"""The layout of optimum-intel, as that package reads it. That models which generate are opened here again:
`tests/test_optimum_layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import ArtifactError, OptionError
from optimum_core.generation.generator import generator_of
from optimum_core.testing.decoders import decoder
from optimum_core.types import Artifact
from optimum_openvino.foreign_ir import FOREIGN_IR

_IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
_MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.fixture
def theirs(exported: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder as optimum-intel writes one: stateful, with `beam_idx`, and logits of all positions."""
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    model, directory = decoder("llama"), tmp_path / "theirs"
    directory.mkdir()
    assert FOREIGN_IR.release is not None
    FOREIGN_IR.release(generator_of(exported("llama", "openvino-ir", route="module"), tmp_path), directory)
    model.config.save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    return directory


def test_a_decoder_has_the_inputs_that_they_feed(theirs: Path) -> None:
    model = openvino.Core().read_model(theirs / "openvino_model.xml")
    assert {name for port in model.inputs for name in port.get_names()} == {
        "input_ids", "attention_mask", "position_ids", "beam_idx",
    }  # fmt: skip
    assert "optimum" not in model.rt_info, "optimum-intel reads versions there"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    counts = (_MASK.cumsum(-1) - 1).clamp(min=1)
    fed = {"input_ids": _IDS.numpy(), "attention_mask": _MASK.numpy(), "position_ids": counts.numpy()}
    logits = request.infer({**fed, "beam_idx": np.arange(2, dtype=np.int32)})["logits"]
    with torch.no_grad():
        want = decoder("llama")(_IDS, attention_mask=_MASK, position_ids=counts).logits
    assert np.allclose(logits[0], want[0], atol=1e-4) and np.allclose(logits[1, 2:], want[1, 2:], atol=1e-4)


def test_a_decoder_of_theirs_is_loaded_without_a_search(theirs: Path, tmp_path: Path) -> None:
    fast, model = load(theirs), decoder("llama")
    assert "unverified against an original" in repr(fast)
    with torch.no_grad():
        want = model(_IDS, attention_mask=_MASK).logits
    assert torch.allclose(fast(input_ids=_IDS, attention_mask=_MASK).logits[0], want[0], atol=1e-4)
    fast.save_pretrained(tmp_path / "out")
    assert load(tmp_path / "out").can_generate()


def test_a_model_is_written_in_their_layout(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3))
    inputs = {"input": torch.randn(2, 4)}
    fast = accelerate(module, target="openvino", sample_inputs=inputs, budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "out", layout="optimum")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(tmp_path / "out" / "openvino_model.xml", "CPU", exact)
    found = compiled(inputs["input"].numpy())
    assert np.allclose(next(iter(found.values())), module(inputs["input"]).detach(), atol=1e-5)
    with pytest.raises(ArtifactError, match="not empty"):
        fast.save_pretrained(tmp_path / "out", layout="optimum")
    (tmp_path / "out" / "README.md").write_text("kept", encoding="utf-8")
    fast.save_pretrained(tmp_path / "out", layout="optimum", overwrite=True)
    assert (tmp_path / "out" / "README.md").is_file()
    with pytest.raises(OptionError, match=r"'gguf' is no layout.*\n.*optimum"):
        fast.save_pretrained(tmp_path / "other", layout="gguf")


def test_a_graph_of_another_name_is_found_in_the_folder_of_sentence_transformers(tmp_path: Path) -> None:
    """Its quantized graphs are named after the method: one alone is the model, and two are none."""
    place = tmp_path / "openvino"
    place.mkdir()
    graph = place / "openvino_model_qint8_quantized.xml"
    graph.write_text('<?xml version="1.0"?>\n<net name="m" version="11">', encoding="utf-8")
    assert FOREIGN_IR.find(tmp_path) == (graph, graph.with_suffix(".bin"))
    (place / "other.xml").write_bytes(graph.read_bytes())
    assert FOREIGN_IR.find(tmp_path) == ()
