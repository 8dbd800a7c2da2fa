"""The layouts of Optimum and optimum-intel of a sentence encoder: the transformer, beside the list of its modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import UnavailableError
from sentence_directories import NORMALIZE, dense, pooling, tiny_transformer, write_directory

_IDS = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]])
_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
_TEXTS = ["w5 w9", "w7"]
_FED = {"input_ids": _IDS.numpy(), "attention_mask": _MASK.numpy(), "token_type_ids": np.zeros((2, 4), np.int64)}


def _run_onnx(place: Path) -> Mapping[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == set(_FED)
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, _FED), strict=True))


def _run_ir(place: Path) -> Mapping[str, Any]:
    import openvino

    model = openvino.Core().compile_model(place / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert {name for port in model.inputs for name in port.get_names()} == set(_FED)
    found = model(_FED)
    return {name: found[port] for port in model.outputs for name in port.get_names()}


@pytest.mark.parametrize(("target", "run", "include"), [("ort", _run_onnx, False), ("openvino", _run_ir, True)])
def test_the_graph_is_the_transformer_alone(target: str, run: Any, include: bool, tmp_path: Path) -> None:
    """These packages pool behind the graph, and take no mask for the pooling; their transformer lies at the top."""
    module, mean = tiny_transformer(), pooling("mean", include_prompt=include)
    directory = write_directory(tmp_path / "m", mean, NORMALIZE, transformer=module, folder="0_Transformer")
    fast = accelerate(directory, target=target, budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "out", layout="optimum")
    found = run(tmp_path / "out")
    assert set(found) == {"last_hidden_state"}
    with torch.no_grad():
        want = module(_IDS, attention_mask=_MASK).last_hidden_state
    kept = _MASK.bool()
    torch.testing.assert_close(torch.as_tensor(found["last_hidden_state"])[kept], want[kept], rtol=1e-3, atol=1e-4)
    listed = json.loads((tmp_path / "out" / "modules.json").read_text(encoding="utf-8"))
    assert [item["path"] for item in listed] == ["", "1_Pooling", "2_Normalize"]
    if include:
        again = load(tmp_path / "out")
        np.testing.assert_allclose(again.encode(_TEXTS), fast.encode(_TEXTS), rtol=1e-3, atol=1e-5)


def test_modules_with_weights_lie_behind_the_graph(tmp_path: Path) -> None:
    stated, weights = dense(32, 8)
    directory = write_directory(tmp_path / "m", pooling("mean"), ("Dense", stated, weights), NORMALIZE)
    fast = accelerate(directory, target="openvino", budget=0, cache_dir=tmp_path / "cache")
    fast.save_pretrained(tmp_path / "out", layout="optimum")
    assert set(_run_ir(tmp_path / "out")) == {"last_hidden_state"}
    np.testing.assert_allclose(load(tmp_path / "out").encode(_TEXTS), fast.encode(_TEXTS), rtol=1e-3, atol=1e-5)


def test_modules_that_change_the_vectors_of_tokens_have_no_form_there(tmp_path: Path) -> None:
    stated, weights = dense(32, 8, module_input_name="token_embeddings")
    directory = write_directory(tmp_path / "m", ("Dense", stated, weights), pooling("mean"))
    fast = accelerate(directory, target="ort", budget=0, cache_dir=tmp_path / "cache")
    with pytest.raises(
        UnavailableError, match=r"no form for it: a module changes the vectors of tokens.*\n.*without layout="
    ):
        fast.save_pretrained(tmp_path / "out", layout="optimum")
    assert not (tmp_path / "out").exists()
